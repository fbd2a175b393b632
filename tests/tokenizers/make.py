"""Trains tokenizers that cover every component: make.py FOLDER [FOLDER WITH REAL tokenizer.json FILES]."""
import json
import lzma
import os
import sys

import charsmap
import corpus
from tokenizers import Tokenizer,models,normalizers as n,pre_tokenizers as p,processors as post,decoders as d,trainers as tr,Regex,AddedToken
import shutil,glob
text=[t for t in corpus.real()[::3]]
import random
r=random.Random(3); text=[t[:20000] for t in text][:150]+[corpus.synth(r,3000) for _ in range(40)]
LL3=r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QW2=r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200=r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
out,found=sys.argv[1],sys.argv[2] if len(sys.argv)>2 else ""
os.makedirs(out,exist_ok=True)
def save(t,name): t.save(out+"/%s.json"%name); print(name,t.get_vocab_size(),flush=True)
def bl(vocab=8000,special=("<|endoftext|>",),**k):
    return tr.BpeTrainer(vocab_size=vocab,special_tokens=list(special),initial_alphabet=p.ByteLevel.alphabet(),show_progress=False,**k)
# GPT-2
t=Tokenizer(models.BPE()); t.pre_tokenizer=p.ByteLevel(add_prefix_space=False); t.decoder=d.ByteLevel(); t.post_processor=post.ByteLevel(trim_offsets=False)
t.train_from_iterator(text,bl()); save(t,"gpt2")
# roberta
t.pre_tokenizer=p.ByteLevel(add_prefix_space=True); t.post_processor=post.RobertaProcessing(("<|endoftext|>",0),("a",t.token_to_id("a")))
t.add_tokens([AddedToken("<mask>",lstrip=True,special=True),AddedToken("single",single_word=True),AddedToken("  right",rstrip=True),"né",AddedToken("a  b",normalized=False)])
save(t,"roberta")
# llama3
t=Tokenizer(models.BPE(ignore_merges=True)); t.pre_tokenizer=p.Sequence([p.Split(Regex(LL3),"isolated"),p.ByteLevel(add_prefix_space=False,use_regex=False)]); t.decoder=d.ByteLevel()
t.train_from_iterator(text,bl(12000,("<|begin_of_text|>",)+tuple("<|reserved_%d|>"%i for i in range(20))))
t.post_processor=post.Sequence([post.ByteLevel(),post.TemplateProcessing(single="<|begin_of_text|> $A",pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",special_tokens=[("<|begin_of_text|>",0)])])
save(t,"llama3")
j=json.load(open(out+"/llama3.json")); # ignore_merges with words that no merge makes
v=j["model"]["vocab"]
for w in ["Ġfoobarbaz","ĠcafÃ©x","hello"]:
    if w not in v: v[w]=len(v)
json.dump(j,open(out+"/llama3_words.json","w"))
# qwen2: NFC
t=Tokenizer(models.BPE()); t.normalizer=n.NFC(); t.pre_tokenizer=p.Sequence([p.Split(Regex(QW2),"isolated"),p.ByteLevel(add_prefix_space=False,use_regex=False)]); t.decoder=d.ByteLevel()
t.train_from_iterator(text,bl(8000,())); t.add_special_tokens(["<|endoftext|>","<|im_start|>"]); save(t,"qwen2")
t.pre_tokenizer=p.Sequence([p.Split(Regex(O200),"isolated"),p.ByteLevel(add_prefix_space=False,use_regex=False)]); save(t,"o200k_split")
# llama2
def ll2(vocab=6000):
    return tr.BpeTrainer(vocab_size=vocab,special_tokens=["<unk>","<s>","</s>"]+["<0x%02X>"%i for i in range(256)],show_progress=False,limit_alphabet=1500,max_token_length=16)
t=Tokenizer(models.BPE(unk_token="<unk>",fuse_unk=True,byte_fallback=True)); t.normalizer=n.Sequence([n.Prepend("▁"),n.Replace(" ","▁")])
t.pre_tokenizer=p.Split("▁","merged_with_next")
t.train_from_iterator([x[:5000] for x in text],ll2())
t.pre_tokenizer=None
t.decoder=d.Sequence([d.Replace("▁"," "),d.ByteFallback(),d.Fuse(),d.Strip(" ",1,0)])
t.post_processor=post.TemplateProcessing(single="<s> $A",pair="<s> $A <s>:1 $B:1",special_tokens=[("<s>",1)])
save(t,"llama2")
j=json.load(open(out+"/llama2.json"));j["added_tokens"]=[a for a in j["added_tokens"] if a["id"]<3]; json.dump(j,open(out+"/llama2.json","w"))
# without complete bytes: unknown fuses, partial
j["model"]["vocab"]={k:v for k,v in j["model"]["vocab"].items() if not(k.startswith("<0x") and int(k[3:5],16)%3==0)}
json.dump(j,open(out+"/llama2_partial.json","w"))
j["model"]["fuse_unk"]=False; j["model"]["byte_fallback"]=False; json.dump(j,open(out+"/llama2_unk.json","w"))
j["model"]["unk_token"]=None; json.dump(j,open(out+"/llama2_drop.json","w"))
# metaspace variants
for scheme in ("always","first","never"):
    for split in (True,False):
        t=Tokenizer.from_file(out+"/llama2.json"); t.normalizer=None; t.pre_tokenizer=p.Metaspace("▁",prepend_scheme=scheme,split=split); t.decoder=d.Sequence([d.ByteFallback(),d.Metaspace("▁",prepend_scheme=scheme,split=split)]); save(t,"meta_%s_%d"%(scheme,split))
# BERT
src=glob.glob(found+"/gt*/**/tokenizer.json",recursive=True)[0]; shutil.copy(src,out+"/minilm.json")
src=glob.glob(found+"/anthropic/**/*token*.json",recursive=True)
if src: shutil.copy(src[0],out+"/anthropic.json")
for i,kw in enumerate([dict(lowercase=False),dict(strip_accents=False),dict(clean_text=False,lowercase=True,strip_accents=True,handle_chinese_chars=False),dict(lowercase=False,strip_accents=True)]):
    t=Tokenizer.from_file(out+"/minilm.json"); t.normalizer=n.BertNormalizer(**kw); save(t,"bert_%d"%i)
t=Tokenizer.from_file(out+"/minilm.json"); t.decoder=d.WordPiece("##",cleanup=False); t.post_processor=post.BertProcessing(("[SEP]",102),("[CLS]",101)); t.add_tokens(["newtok","Héllo",AddedToken("[X]",lstrip=True,rstrip=True,normalized=True),AddedToken("ab",single_word=True,normalized=False)]); save(t,"bert_added")
# char-level BPE over every normalizer / pre-tokenizer: alphabet of everything seen
def chars(name,normalizer=None,pre=None,dec=None):
    t=Tokenizer(models.BPE(unk_token="<unk>")); t.normalizer=normalizer; t.pre_tokenizer=pre; t.decoder=dec or d.Fuse()
    base=Tokenizer.from_file(out+"/char_base.json"); 
    b=json.loads(base.to_str()); m=json.loads(t.to_str()); b["normalizer"]=m["normalizer"]; b["pre_tokenizer"]=m["pre_tokenizer"]; b["decoder"]=m["decoder"]
    json.dump(b,open(out+"/%s.json"%name,"w"))
t=Tokenizer(models.BPE(unk_token="<unk>")); t.pre_tokenizer=p.Whitespace()
t.train_from_iterator([x[:3000] for x in text],tr.BpeTrainer(vocab_size=5000,limit_alphabet=400,special_tokens=["<unk>"],show_progress=False)); t.save(out+"/char_base.json")
# give it every code point
j=json.load(open(out+"/char_base.json")); v=j["model"]["vocab"]
for c in range(1,0x33480):
    if not 0xd800<=c<0xe000 and c!=0xfdd0 and chr(c) not in v: v[chr(c)]=len(v)
json.dump(j,open(out+"/char_base.json","w"))
N=n
for name in ["NFC","NFD","NFKC","NFKD","Lowercase","StripAccents"]: chars("norm_"+name,getattr(n,name)())
chars("norm_seq",n.Sequence([n.NFKD(),n.StripAccents(),n.Lowercase(),n.Strip(),n.Replace(Regex(r"\s+")," "),n.Replace("o","00"),n.Prepend("x")]))
chars("norm_strip",n.Strip(left=True,right=False))
chars("pre_ws",pre=p.Whitespace()); chars("pre_wss",pre=p.WhitespaceSplit()); chars("pre_bert",pre=p.BertPreTokenizer())
chars("pre_delim",pre=p.CharDelimiterSplit("e"))
for b in ["removed","isolated","merged_with_previous","merged_with_next","contiguous"]:
    chars("pre_punct_"+b,pre=p.Punctuation(b)); chars("pre_split_"+b,pre=p.Split(Regex(r"\w+|\d"),b)); chars("pre_splits_"+b,pre=p.Split("e",b)); chars("pre_spliti_"+b,pre=p.Split(Regex(r"\s*"),b,invert=True))
chars("pre_digits0",pre=p.Digits(False)); chars("pre_digits1",pre=p.Digits(True))
chars("pre_seq",pre=p.Sequence([p.WhitespaceSplit(),p.Digits(True),p.Punctuation(),p.Split(Regex(r"\p{Lu}|\p{Han}|\S\b"),"merged_with_next")]))
chars("pre_bytes",pre=p.Sequence([p.ByteLevel(True),p.Digits(True)]))
chars("pre_esc",pre=p.Split(Regex(r"\h+|\W|^.|.$|[\d\p{P}]|\P{L}"),"isolated"))
# prefix and suffix
t=Tokenizer(models.BPE(unk_token="<unk>",continuing_subword_prefix="##",end_of_word_suffix="</w>")); t.normalizer=n.NFC(); t.pre_tokenizer=p.Whitespace(); t.decoder=d.BPEDecoder("</w>")
t.train_from_iterator([x[:3000] for x in text],tr.BpeTrainer(vocab_size=6000,special_tokens=["<unk>"],show_progress=False,continuing_subword_prefix="##",end_of_word_suffix="</w>")); save(t,"affixes")

# Unigram. The map of characters is SentencePiece's own nmt_nfkc (of sentencepiece 0.2.3), which T5, XLM-R and their kin have.
MAP=charsmap.normalizer(lzma.open(os.path.join(os.path.dirname(os.path.abspath(__file__)),"nmt_nfkc.map.xz")).read())
def js(x): return json.loads(x.__getstate__())
def pipeline(t,name,norm,pre,dec,change=None):
    t.pre_tokenizer,t.decoder=pre,dec
    j=charsmap.set_normalizers(t,[x if isinstance(x,dict) else js(x) for x in norm])
    if change: change(j)
    json.dump(j,open(out+"/%s.json"%name,"w")); print(name,flush=True)
t=Tokenizer(models.Unigram()); t.pre_tokenizer=p.Sequence([p.WhitespaceSplit(),p.Metaspace()])
t.train_from_iterator([x for x in text[:110]],tr.UnigramTrainer(vocab_size=8000,special_tokens=["<s>","<pad>","</s>","<unk>"],unk_token="<unk>",show_progress=False))
t.post_processor=post.TemplateProcessing(single="<s> $A </s>",pair="<s> $A </s> </s> $B </s>",special_tokens=[("<s>",0),("</s>",2)])
t.add_special_tokens([AddedToken("<mask>",lstrip=True)]+["<extra_id_%d>"%i for i in range(100)])
words=p.Sequence([p.WhitespaceSplit(),p.Metaspace()])
pipeline(t,"uni_xlmr",[MAP],words,d.Metaspace())
pipeline(t,"uni_albert",[n.Replace("``",'"'),n.Replace("\'\'",'"'),n.NFKD(),n.StripAccents(),n.Lowercase(),MAP,n.Replace(Regex(" {2,}")," ")],words,d.Metaspace())
first=p.Metaspace(prepend_scheme="first")
pipeline(t,"uni_deberta",[n.Replace(Regex(r"\s{2,}|[\n\r\t]")," "),n.NFC(),n.Strip(left=False,right=True)],p.Sequence([p.Punctuation("isolated"),first]),d.Metaspace(prepend_scheme="first"))
pipeline(t,"uni_pegasus",[MAP,n.Replace(Regex(r" {2,}")," ")],p.Metaspace(),d.Metaspace())
pipeline(t,"uni_spm",[MAP,n.Replace(Regex(r"\A +| +\z"),""),n.Replace(Regex(" {2,}")," "),n.Replace(" ","▁"),n.Replace(Regex(r"\A▁"),"▁▁")],first,d.Metaspace(prepend_scheme="first"))
def with_bytes(j):
    j["model"]["byte_fallback"]=True; j["model"]["vocab"]+=[["<0x%02X>"%i,-30.0-i/7] for i in range(256) if i!=0xED]
    j["added_tokens"]=j["added_tokens"][:4]
pipeline(t,"uni_bytes",[n.Nmt()],p.Metaspace(prepend_scheme="first",split=False),d.Sequence([d.Replace("▁"," "),d.ByteFallback(),d.Fuse(),d.Strip(" ",1,0)]),with_bytes)
# WordLevel
t=Tokenizer(models.WordLevel(unk_token="[UNK]")); t.normalizer,t.pre_tokenizer=n.Lowercase(),p.Whitespace()
t.train_from_iterator(text,tr.WordLevelTrainer(vocab_size=20000,special_tokens=["[UNK]","[PAD]"],show_progress=False)); save(t,"wordlevel")
# Gemma: no words, thousands of added tokens
t=Tokenizer.from_file(out+"/llama2.json"); t.post_processor=post.TemplateProcessing(single="<s> $A",pair="<s> $A <s>:1 $B:1",special_tokens=[("<s>",1)])
t.add_tokens([AddedToken("\n"*i,normalized=False) for i in range(2,32)]+[AddedToken("▁"*i,normalized=False) for i in range(2,32)]+[AddedToken("<%s>"%x,normalized=False) for x in ["h1","/h1","b","i","br","table"]])
t.add_special_tokens(["<unused%d>"%i for i in range(6000)])
pipeline(t,"gemma",[n.Replace(" ","▁")],p.Split(" ","merged_with_previous"),d.Sequence([d.Replace("▁"," "),d.ByteFallback(),d.Fuse()]))
# The patterns of newer models
KIMI=r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QW35=r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
DEEP=[r"\p{N}{1,3}",r"[一-龥぀-ゟ゠-ヿ]+",r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""]
for name,patterns in (("kimi_split",[KIMI]),("qwen35_split",[QW35]),("deepseek_split",DEEP)):
    t=Tokenizer.from_file(out+"/qwen2.json"); t.pre_tokenizer=p.Sequence([p.Split(Regex(x),"isolated") for x in patterns]+[p.ByteLevel(add_prefix_space=False,use_regex=False)]); save(t,name)
chars("pre_classes",pre=p.Split(Regex(r"[\p{L}&&[^\p{Lu}\p{Han}]]+|[[:punct:][^\W\d_a-z]]|[^\s\p{L}&&[^\p{M}]]x|[\w&&[^\p{L}]]|[\D&&\P{L}&&[:ascii:]]"),"isolated"))
chars("norm_nmt",n.Nmt()); chars("norm_bytes",n.ByteLevel()); chars("norm_mapped",n.NFC())
j=json.load(open(out+"/norm_mapped.json")); j["normalizer"]=MAP; json.dump(j,open(out+"/norm_mapped.json","w"))
