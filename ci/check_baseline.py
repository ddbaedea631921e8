"""Check that compiled kernels need only a plain x86-64 processor, apart from functions compiled for one ISA.

A function for one instruction set has its name at the end, to which the compiler may append .part.0, .cold and the
like. No other function may contain an instruction that came after SSE2. Instructions of AVX and later are found by a
mnemonic that begins with v, a wide register or a mask register; those of SSE3, SSE4 and BMI are found by name.

usage: check_baseline.py FOLDER    with *.so files, not stripped
"""

import re
import subprocess
import sys
from pathlib import Path

LISTED = re.compile(r"^[0-9a-f]+ <(.+)>:$")
FOR_AN_ISA = re.compile(r"_(avx2|avx512|bf16)(\.|$)")
LATER = re.compile(
    r"^v(?!err|erw)|%[yz]mm|%k[0-7]"  # AVX and everything after it
    r"|^(pshufb|palignr|phadd|pabs|psign|pmaddubsw|pmulhrsw|h(add|sub)p|addsubp|movddup|movs[hl]dup|lddqu)"  # SSE3
    r"|^(blendv?p|pblend|dpp|round[ps]|pm(in|ax)(s[bd]|u[wd])|pmov[sz]x|pmuldq|pmulld|ptest|pcmpeqq|pcmpgtq)"
    r"|^(insertps|extractps|pinsr[bdq]|pextr[bdq]|packusdw|mpsadbw|movntdqa|pcmp[ei]str|crc32|popcnt)"  # SSE4
    r"|^(andn|bextr|bls[ir]|blsmsk|bzhi|mulx|pdep|pext|rorx|s[ah][lr]x|adcx|adox|lzcnt|movbe)"  # BMI
)


def functions(library: Path) -> dict[str, list[str]]:
    """Return the instructions of every function, as objdump prints them."""
    command = ["objdump", "--disassemble", "--no-show-raw-insn", str(library)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, list[str]] = {}
    name = ""
    for line in listing.splitlines():
        heading = LISTED.match(line)
        if heading:
            name = heading[1]
            found.setdefault(name, [])
        elif ":\t" in line:
            found[name].append(line.partition(":\t")[2])
    return found


def main(folder: Path) -> int:
    """Report forbidden instructions; return 1 if there are any, or if no function was found."""
    libraries = sorted(folder.glob("*.so"))
    plain = wide = 0
    used = set()
    wrong = []
    for library in libraries:
        for name, instructions in functions(library).items():
            later = [text for text in instructions if LATER.search(text)]
            isa = FOR_AN_ISA.search(name)
            if isa:
                wide += 1
                if later:
                    used.add(isa[1])
            else:
                plain += 1
                wrong += [f"{library.name}: {name}: {text}" for text in later]
    print(f"{len(libraries)} libraries: {plain} functions for every x86-64, {wide} for one instruction set")
    print(*wrong[:20], sep="\n", end="\n" if wrong else "")
    if wrong:
        print(f"{len(wrong)} instructions that not every x86-64 has, in functions for all of them")
    if used != {"avx2", "avx512", "bf16"}:
        print(f"wide instructions were found for {sorted(used)}, expected for avx2, avx512 and bf16: stripped files?")
    return bool(wrong) or used != {"avx2", "avx512", "bf16"}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
