"""A large mixed corpus: real text of many languages from what is installed, and synthetic text over all of Unicode."""
import glob
import os
import random
import re
import subprocess


def real(limit=6_000_000):
    out=[]
    pats=["/usr/share/dict/*","/usr/share/i18n/locales/*","/usr/share/common-licenses/*","/usr/share/perl/*/unicore/*.txt","/usr/lib/python3*/**/*.py","/usr/share/doc/**/README*","/usr/share/unicode/**/*.txt","/usr/share/misc/*","/usr/lib/python3/dist-packages/**/*.md","/usr/share/locale/**/*.mo","/usr/share/vim/**/*.txt"]
    for p in pats:
        fs=sorted(glob.glob(p,recursive=True)); random.Random(1).shuffle(fs); got=0
        for f in fs:
            if not os.path.isfile(f): continue
            try: t=open(f,"rb").read(200000).decode("utf8","replace")
            except OSError: continue
            if f.endswith(".mo"): t="\n".join(x for x in re.split("[\x00]",t) if len(x)>3 and "\ufffd" not in x)
            out.append(t); got+=len(t)
            if got>700_000: break
    try: out.append(subprocess.run(["bible","-f","gen1:1-exo40:38"],capture_output=True).stdout.decode("utf8","replace"))
    except OSError: pass
    return out
RANGES=[(0x20,0x7e),(0xa0,0x24f),(0x250,0x36f),(0x370,0x3ff),(0x400,0x52f),(0x530,0x5ff),(0x600,0x6ff),(0x700,0x8ff),(0x900,0xdff),(0xe00,0xeff),(0xf00,0x109f),(0x10a0,0x11ff),(0x1200,0x139f),(0x13a0,0x18af),(0x1900,0x1cff),(0x1d00,0x1fff),(0x2000,0x2bff),(0x2c00,0x2e7f),(0x2e80,0x303f),(0x3040,0x30ff),(0x3100,0x33ff),(0x3400,0x4dbf),(0x4e00,0x9fff),(0xa000,0xabff),(0xac00,0xd7a3),(0xf900,0xffff),(0x10000,0x10fff),(0x11000,0x12fff),(0x13000,0x16fff),(0x17000,0x1afff),(0x1b000,0x1cfff),(0x1d000,0x1efff),(0x1f000,0x1faff),(0x20000,0x2a6df),(0x2a700,0x2ebe0),(0x30000,0x3134f),(0xe0000,0xe01ef)]
EMO=["\U0001F468\u200d\U0001F469\u200d\U0001F467","\U0001F3F3\ufe0f\u200d\U0001F308","\U0001F1E9\U0001F1EA","\U0001F44D\U0001F3FD","\u2764\ufe0f","\u0031\ufe0f\u20e3","\U0001F600"]
SP=[" ","  ","   ","\n","\n\n","\r\n","\t"," \n"," \n ","\u00a0","\u3000","\u2003","\u200b","\u180e","\u2028","\x85","\x0b","\x0c","        ","\n\n\n\n"," \t \n"]
CTL=["\0","\x01","\x1b","\x7f","\u200d","\u200e","\ufeff","\ufffd","\ufffe","\u00ad","\U000e0001","\x9f"]
WORDS="don't I'm we've they'll he's she'd WE'VE I'Ll it'ſ O'Neill 123 1234567 3.14 1,000,000 x=y a_b foo-bar http://a.b/c?d=e&f#g [MASK] [CLS] <s> </s> <|endoftext|> ▁ ▁▁ ▁a a▁ ## ##ing <0x41> ﬁ ﬃ ſ K Å ǅ İ I ı ß ẞ Σς ΣΑΣ café naïve ångström é 한국어 가 각 日本語 ｶﾞ ｱ Ⅷ ² ½ ① ٣ ३ 万 〇 \u0345 q\u0307\u0323 a\u0323\u0307".split()
def synth(r,n):
    s=[]
    while n>0:
        k=r.random()
        if k<0.35:
            lo,hi=r.choice(RANGES); w="".join(chr(r.randint(lo,hi)) for _ in range(r.choice([1,1,2,3,4,5,6,8,12])))
        elif k<0.5: w=r.choice(WORDS)
        elif k<0.55: w=r.choice(EMO)
        elif k<0.6: w=r.choice("abcdeé日\u0301")+"".join(chr(r.randint(0x300,0x36f)) for _ in range(r.randint(1,5)))
        elif k<0.63: w=r.choice(CTL)
        elif k<0.68: w=str(r.randint(0,10**r.randint(1,18)))
        elif k<0.69: w="".join(r.choice("abcXYZ01é") for _ in range(r.randint(60,400)))
        elif k<0.7: w=r.choice("aA1 -é\u0301.▁#")*r.randint(20,300)
        elif k<0.75: w="".join(chr(c) for c in (r.randint(0,0x10ffff) for _ in range(4)) if not 0xd800<=c<0xe000)
        else: w="".join(r.choice("etaoinshrdlucmfwypvbgkjqxz") for _ in range(r.randint(1,9)))
        w="".join(c for c in w if not 0xd800<=ord(c)<0xe000)
        s.append(w+(r.choice(SP) if r.random()<0.5 else " ")); n-=len(w.encode())+1
    return "".join(s)
def docs(real_bytes=6_000_000,synth_docs=3000,seed=5):
    r=random.Random(seed); out=[]
    for t in real():
        i=0
        while i<len(t):
            n=r.choice([20,100,500,2000,10000]); out.append(t[i:i+n]); i+=n
    r.shuffle(out)
    tot=0;keep=[]
    for t in out:
        if tot>real_bytes: break
        keep.append(t); tot+=len(t.encode("utf8","ignore"))
    keep=[t.encode("utf8","ignore").decode() for t in keep]
    keep+=[synth(r,r.choice([5,30,200,1500])) for _ in range(synth_docs)]
    cps=[c for c in range(0x110000) if not 0xd800<=c<0xe000]
    for k in (" ","x","\u0301","a\u0301",""):
        for i in range(0,len(cps),3000): keep.append(k.join(chr(c) for c in cps[i:i+3000]))
    keep+=["","\0"," ","\n","a\0b"]
    return keep
