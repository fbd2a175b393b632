"""The model shapes brim trains, written plainly in PyTorch.

Parameter names and their order are those of the Hugging Face checkpoints, so that the C side, the fixtures and real
checkpoints share one vocabulary. Tied heads own no parameter. Labels are aligned with the logits (position t's label
belongs to logits[:, t]); nothing is shifted here. No dropout: masks are a matter of each engine's own generator.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

IGNORE = -100


def heads_first(x, heads):
    """(B, T, H*D) -> (B, H, T, D)"""
    b, t, c = x.shape
    return x.view(b, t, heads, c // heads).transpose(1, 2)


def heads_last(x):
    """(B, H, T, D) -> (B, T, H*D)"""
    b, h, t, d = x.shape
    return x.transpose(1, 2).reshape(b, t, h * d)


def attention(q, k, v, added):
    """q, k, v (B, H, T, D); added: what is added to the scores (0 or very negative), or None."""
    scores = q @ k.transpose(-1, -2) * (1 / math.sqrt(q.shape[-1]))
    if added is not None:
        scores = scores + added
    return scores.softmax(-1) @ v


def causal(t, like):
    """(T, T): 0 on and below the diagonal, the lowest finite value above."""
    return torch.full((t, t), torch.finfo(like.dtype).min, dtype=like.dtype).triu(1)


def loss_of(logits, labels):
    """Mean over the labels that count."""
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=IGNORE)


def initialise(model, seed=0):
    """normal(0, 0.02), norm weights 1, biases 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() > 1:
                p.normal_(0, 0.02, generator=generator)
            else:
                p.fill_(1 if name.endswith('.weight') else 0)
    return model


# ---- MLP ----------------------------------------------------------------------------------------------------------

class MLP(nn.Module):
    """sizes (in, hidden…, classes); ReLU between layers."""

    def __init__(self, sizes):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(sizes, sizes[1:]))

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


# ---- LLaMA --------------------------------------------------------------------------------------------------------

class RMSNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def rope_tables(t, head_dim, theta, dtype):
    """cos and sin (T, D), the D/2 frequencies twice in a row."""
    frequency = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angle = torch.arange(t, dtype=torch.float64)[:, None] * frequency
    angle = torch.cat((angle, angle), -1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rope(x, cos, sin):
    """x (B, H, T, D): pairs (i, i + D/2)."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


class LlamaAttention(nn.Module):
    def __init__(self, dim, heads, kv_heads, head_dim, qkv_bias, o_bias):
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads
        self.q_proj = nn.Linear(dim, heads * head_dim, bias=bool(qkv_bias))
        self.k_proj = nn.Linear(dim, kv_heads * head_dim, bias=bool(qkv_bias))
        self.v_proj = nn.Linear(dim, kv_heads * head_dim, bias=bool(qkv_bias))
        self.o_proj = nn.Linear(heads * head_dim, dim, bias=bool(o_bias))

    def forward(self, x, cos, sin, added):
        q = rope(heads_first(self.q_proj(x), self.heads), cos, sin)
        k = rope(heads_first(self.k_proj(x), self.kv_heads), cos, sin)
        v = heads_first(self.v_proj(x), self.kv_heads)
        group = self.heads // self.kv_heads
        if group > 1:
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        return self.o_proj(heads_last(attention(q, k, v, added)))


class LlamaMLP(nn.Module):
    def __init__(self, dim, hidden, bias):
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden, bias=bool(bias))
        self.up_proj = nn.Linear(dim, hidden, bias=bool(bias))
        self.down_proj = nn.Linear(hidden, dim, bias=bool(bias))

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class LlamaLayer(nn.Module):
    def __init__(self, dim, heads, kv_heads, head_dim, hidden, eps, qkv_bias, o_bias, mlp_bias):
        super().__init__()
        self.self_attn = LlamaAttention(dim, heads, kv_heads, head_dim, qkv_bias, o_bias)
        self.mlp = LlamaMLP(dim, hidden, mlp_bias)
        self.input_layernorm = RMSNorm(dim, eps)
        self.post_attention_layernorm = RMSNorm(dim, eps)

    def forward(self, x, cos, sin, added):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, added)
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaModel(nn.Module):
    def __init__(self, vocab, dim, layers, heads, kv_heads, head_dim, hidden, eps, *biases):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab, dim)
        self.layers = nn.ModuleList(LlamaLayer(dim, heads, kv_heads, head_dim, hidden, eps, *biases)
                                    for _ in range(layers))
        self.norm = RMSNorm(dim, eps)


class LlamaForCausalLM(nn.Module):
    """kv_heads 0 means heads, head_dim 0 means dim / heads. Qwen2 has qkv_bias; Llama may have all three."""

    def __init__(self, vocab, dim, layers, heads, hidden, kv_heads=0, head_dim=0, norm_eps=1e-5, rope_theta=10000.0,
                 tied=0, qkv_bias=0, o_bias=0, mlp_bias=0):
        super().__init__()
        self.head_dim, self.rope_theta = head_dim or dim // heads, rope_theta
        self.model = LlamaModel(vocab, dim, layers, heads, kv_heads or heads, self.head_dim, hidden, norm_eps, qkv_bias,
                                o_bias, mlp_bias)
        self.lm_head = None if tied else nn.Linear(dim, vocab, bias=False)

    def forward(self, ids):
        x = self.model.embed_tokens(ids)
        cos, sin = rope_tables(ids.shape[1], self.head_dim, self.rope_theta, x.dtype)
        added = causal(ids.shape[1], x)
        for layer in self.model.layers:
            x = layer(x, cos, sin, added)
        head = self.model.embed_tokens if self.lm_head is None else self.lm_head
        return F.linear(self.model.norm(x), head.weight)


# ---- GPT-2 --------------------------------------------------------------------------------------------------------

class Conv1D(nn.Module):
    """A linear layer whose weight is stored (in, out)."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x):
        y = torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight)
        return y.view(*x.shape[:-1], -1)


class GPT2Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.c_attn = Conv1D(dim, 3 * dim)
        self.c_proj = Conv1D(dim, dim)

    def forward(self, x, added):
        q, k, v = (heads_first(part, self.heads) for part in self.c_attn(x).chunk(3, -1))
        return self.c_proj(heads_last(attention(q, k, v, added)))


class GPT2MLP(nn.Module):
    def __init__(self, dim, ffn):
        super().__init__()
        self.c_fc = Conv1D(dim, ffn)
        self.c_proj = Conv1D(ffn, dim)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x), approximate='tanh'))


class GPT2Block(nn.Module):
    def __init__(self, dim, heads, ffn, eps):
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim, eps)
        self.attn = GPT2Attention(dim, heads)
        self.ln_2 = nn.LayerNorm(dim, eps)
        self.mlp = GPT2MLP(dim, ffn)

    def forward(self, x, added):
        x = x + self.attn(self.ln_1(x), added)
        return x + self.mlp(self.ln_2(x))


class GPT2Model(nn.Module):
    def __init__(self, vocab, dim, layers, heads, ffn, max_seq, eps):
        super().__init__()
        self.wte = nn.Embedding(vocab, dim)
        self.wpe = nn.Embedding(max_seq, dim)
        self.h = nn.ModuleList(GPT2Block(dim, heads, ffn, eps) for _ in range(layers))
        self.ln_f = nn.LayerNorm(dim, eps)

    def forward(self, ids):
        t = ids.shape[1]
        x = self.wte(ids) + self.wpe.weight[:t]
        added = causal(t, x)
        for block in self.h:
            x = block(x, added)
        return self.ln_f(x)


class GPT2LMHeadModel(nn.Module):
    """ffn 0 means 4 * dim."""

    def __init__(self, vocab, dim, layers, heads, ffn=0, max_seq=1024, norm_eps=1e-5):
        super().__init__()
        self.transformer = GPT2Model(vocab, dim, layers, heads, ffn or 4 * dim, max_seq, norm_eps)

    def forward(self, ids):
        return F.linear(self.transformer(ids), self.transformer.wte.weight)


# ---- BERT ---------------------------------------------------------------------------------------------------------

class BertEmbeddings(nn.Module):
    def __init__(self, vocab, dim, max_seq, types, eps):
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab, dim)
        self.position_embeddings = nn.Embedding(max_seq, dim)
        self.token_type_embeddings = nn.Embedding(types, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps)

    def forward(self, ids, types):
        x = self.word_embeddings(ids) + self.token_type_embeddings(types)
        return self.LayerNorm(x + self.position_embeddings.weight[:ids.shape[1]])


class BertSelfAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)

    def forward(self, x, added):
        q, k, v = (heads_first(f(x), self.heads) for f in (self.query, self.key, self.value))
        return heads_last(attention(q, k, v, added))


class BertOutput(nn.Module):
    """dense, residual, LayerNorm: ends both halves of a layer."""

    def __init__(self, n_in, dim, eps):
        super().__init__()
        self.dense = nn.Linear(n_in, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps)

    def forward(self, x, residual):
        return self.LayerNorm(self.dense(x) + residual)


class BertAttention(nn.Module):
    def __init__(self, dim, heads, eps):
        super().__init__()
        self.self = BertSelfAttention(dim, heads)
        self.output = BertOutput(dim, dim, eps)

    def forward(self, x, added):
        return self.output(self.self(x, added), x)


class BertIntermediate(nn.Module):
    def __init__(self, dim, ffn):
        super().__init__()
        self.dense = nn.Linear(dim, ffn)

    def forward(self, x):
        return F.gelu(self.dense(x))


class BertLayer(nn.Module):
    def __init__(self, dim, heads, ffn, eps):
        super().__init__()
        self.attention = BertAttention(dim, heads, eps)
        self.intermediate = BertIntermediate(dim, ffn)
        self.output = BertOutput(ffn, dim, eps)

    def forward(self, x, added):
        x = self.attention(x, added)
        return self.output(self.intermediate(x), x)


class BertEncoder(nn.Module):
    def __init__(self, dim, layers, heads, ffn, eps):
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(dim, heads, ffn, eps) for _ in range(layers))


class BertModel(nn.Module):
    def __init__(self, vocab, dim, layers, heads, ffn, max_seq, types, eps):
        super().__init__()
        self.embeddings = BertEmbeddings(vocab, dim, max_seq, types, eps)
        self.encoder = BertEncoder(dim, layers, heads, ffn, eps)

    def forward(self, ids, types, mask):
        x = self.embeddings(ids, torch.zeros_like(ids) if types is None else types)
        added = None
        if mask is not None:
            added = (1 - mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        for layer in self.encoder.layer:
            x = layer(x, added)
        return x


class BertTransform(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps)

    def forward(self, x):
        return self.LayerNorm(F.gelu(self.dense(x)))


class BertPredictions(nn.Module):
    def __init__(self, vocab, dim, eps):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocab))
        self.transform = BertTransform(dim, eps)


class BertHead(nn.Module):
    def __init__(self, vocab, dim, eps):
        super().__init__()
        self.predictions = BertPredictions(vocab, dim, eps)


class BertForMaskedLM(nn.Module):
    def __init__(self, vocab, dim, layers, heads, ffn, max_seq=512, types=2, norm_eps=1e-12):
        super().__init__()
        self.bert = BertModel(vocab, dim, layers, heads, ffn, max_seq, types, norm_eps)
        self.cls = BertHead(vocab, dim, norm_eps)

    def forward(self, ids, types=None, mask=None):
        head = self.cls.predictions
        x = head.transform(self.bert(ids, types, mask))
        return F.linear(x, self.bert.embeddings.word_embeddings.weight, head.bias)
