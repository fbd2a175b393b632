"""brim's tokenizers through its shared library."""
import ctypes as C
import os

LIB = C.CDLL(os.environ.get("BRIM_LIBRARY", "build/libbrim.so"))


class Ids(C.Structure):
    _fields_ = [("ids", C.POINTER(C.c_int32)), ("count", C.c_size_t), ("room", C.c_size_t)]


class Text(C.Structure):
    _fields_ = [("text", C.POINTER(C.c_char)), ("bytes", C.c_size_t), ("room", C.c_size_t)]


class Training(C.Structure):
    _fields_ = [("vocab", C.c_int64), ("min_count", C.c_int64), ("special", C.c_void_p), ("specials", C.c_int)]


LIB.brim_tokenizer_read.restype = C.c_void_p
LIB.brim_tokenizer_read.argtypes = [C.c_char_p]
LIB.brim_tokenizer_encode.argtypes = [C.c_void_p, C.c_char_p, C.c_size_t, C.c_int, C.POINTER(Ids)]
LIB.brim_tokenizer_decode.argtypes = [C.c_void_p, C.POINTER(C.c_int32), C.c_size_t, C.c_int, C.POINTER(Text)]
LIB.brim_tokenizer_free.argtypes = [C.c_void_p]
LIB.brim_tokenizer_train.argtypes = [C.c_char_p, C.c_char_p, C.POINTER(Training)]
LIB.brim_error_message.restype = C.c_char_p


def refuse():
    message = LIB.brim_error_message().decode("utf8", "replace")
    LIB.brim_error_clear()
    raise ValueError(message)


class Tokenizer:
    def __init__(self, path):
        self.ids, self.text = Ids(), Text()
        self.handle = LIB.brim_tokenizer_read(path.encode()) or refuse()

    def raw(self, text, special=True):
        self.ids.count = 0
        if LIB.brim_tokenizer_encode(self.handle, text, len(text), special, C.byref(self.ids)):
            refuse()
        return self.ids.count

    def encode(self, text, special=True):
        n = self.raw(text, special)
        return list(C.cast(self.ids.ids, C.POINTER(C.c_int32 * n)).contents) if n else []

    def decode(self, ids, skip=True):
        self.text.bytes = 0
        array = (C.c_int32 * max(1, len(ids)))(*ids)
        if LIB.brim_tokenizer_decode(self.handle, array, len(ids), skip, C.byref(self.text)):
            refuse()
        return C.string_at(self.text.text, self.text.bytes).decode()

    def close(self):
        LIB.brim_tokenizer_free(self.handle)


def train(text, out, vocab, min_count):
    if LIB.brim_tokenizer_train(text.encode(), out.encode(), C.byref(Training(vocab, min_count, None, 0))):
        refuse()
