"""What CPUID says inside this process: under an emulator, of the CPU that is emulated.

/proc/cpuinfo tells of the machine, also to a process that runs under qemu's user emulation.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass

from hwbench import armid

# void f(uint32 leaf, uint32 subleaf, uint32 *registers) in the System V calling convention.
_CODE = bytes.fromhex(
    "53"  # push rbx, which the caller owns
    "89f8 89f1 4989d0"  # eax = leaf, ecx = subleaf, r8 = registers
    "0fa2"  # cpuid
    "418900 41895804 41894808 4189500c"  # store eax, ebx, ecx, edx
    "5b c3"
)
EAX, EBX, ECX, EDX = range(4)
_EXTENDED = 0x80000000  # the leaf that tells the last of the extended ones

# Flag, leaf, subleaf, register, bit: Intel SDM, volume 2A, CPUID. From most to least capable.
FLAGS = (
    ("amx_int8", 7, 0, EDX, 25),
    ("amx_bf16", 7, 0, EDX, 22),
    ("avx512_bf16", 7, 1, EAX, 5),
    ("avx512_vnni", 7, 0, ECX, 11),
    ("avx_vnni", 7, 1, EAX, 4),
    ("avx512f", 7, 0, EBX, 16),
    ("avx2", 7, 0, EBX, 5),
    ("fma", 1, 0, ECX, 12),
    ("avx", 1, 0, ECX, 28),
    ("sse4_1", 1, 0, ECX, 19),
)

Registers = tuple[int, int, int, int]
Instruction = Callable[[int, int], Registers]


@dataclass(frozen=True)
class Cpu:
    """A CPU by its own account.

    Attributes:
        name: the brand string.
        flags: of ``FLAGS`` (``armid.FLAGS`` on aarch64) those it has, in that order.
    """

    name: str
    flags: tuple[str, ...]


def read() -> Cpu | None:
    """The CPU this process sees; ``None`` where it cannot, or may not, be asked."""
    if sys.platform != "linux":
        return None
    if platform.machine() == "aarch64":
        return Cpu(armid.name(), armid.flags())
    if platform.machine() not in ("x86_64", "AMD64"):
        return None
    try:
        code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:  # a hardened kernel refuses memory that is written and executed
        return None
    code.write(_CODE)
    held = ctypes.c_char.from_buffer(code)
    try:
        return _decoded(_instruction(ctypes.addressof(held)))
    finally:
        del held  # else the memory cannot be given back
        code.close()


def _instruction(address: int) -> Instruction:
    function = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)(address)

    def cpuid(leaf: int, subleaf: int) -> Registers:
        registers = (ctypes.c_uint32 * 4)()
        function(leaf, subleaf, ctypes.addressof(registers))
        return registers[0], registers[1], registers[2], registers[3]

    return cpuid


def _decoded(cpuid: Instruction) -> Cpu:
    last, last_of_7 = cpuid(0, 0)[EAX], cpuid(7, 0)[EAX]
    flags = tuple(
        name
        for name, leaf, subleaf, register, bit in FLAGS
        if leaf <= last and (subleaf == 0 or subleaf <= last_of_7)
        if cpuid(leaf, subleaf)[register] >> bit & 1
    )
    return Cpu(_brand(cpuid), flags)


def _brand(cpuid: Instruction) -> str:
    leaves = range(_EXTENDED + 2, _EXTENDED + 5)
    if cpuid(_EXTENDED, 0)[EAX] < leaves[-1]:
        return "unknown"
    text = b"".join(each.to_bytes(4, "little") for leaf in leaves for each in cpuid(leaf, 0))
    return " ".join(text.split(b"\0")[0].decode(errors="replace").split())
