"""What an aarch64 processor says of itself inside this process: under qemu, the emulated one.

The kernel hands its features to every process (getauxval: AT_HWCAP), and lets it read MIDR_EL1, the
register that identifies the core, where it says so itself (HWCAP_CPUID). qemu's user emulation does
both for the processor that it emulates, while /proc/cpuinfo tells of the machine.
"""

from __future__ import annotations

import ctypes
import mmap
import tempfile

# mrs x0, midr_el1; ret
_CODE = bytes.fromhex("000038d5 c0035fd6")
# ctypes takes the address of writable memory alone; the private copy is never written to.
_ACCESS = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC

# Auxiliary vector entry and bit: arch/arm64/include/uapi/asm/hwcap.h. Most to least capable.
AT_HWCAP, AT_HWCAP2 = 16, 26
FLAGS = (
    ("sve2", AT_HWCAP2, 1),
    ("sve", AT_HWCAP, 22),
    ("i8mm", AT_HWCAP2, 13),
    ("bf16", AT_HWCAP2, 14),
    ("asimddp", AT_HWCAP, 20),  # int8 dot products
    ("asimdhp", AT_HWCAP, 10),  # arithmetic in half precision
    ("asimd", AT_HWCAP, 1),
)
_HWCAP_CPUID = 1 << 11

# Implementer and part number of MIDR_EL1: Arm's Main ID Register, and its cores' manuals.
CORES = {
    (0x41, 0xD03): "Cortex-A53",
    (0x41, 0xD04): "Cortex-A35",
    (0x41, 0xD05): "Cortex-A55",
    (0x41, 0xD07): "Cortex-A57",
    (0x41, 0xD08): "Cortex-A72",
    (0x41, 0xD09): "Cortex-A73",
    (0x41, 0xD0A): "Cortex-A75",
    (0x41, 0xD0B): "Cortex-A76",
    (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD0D): "Cortex-A77",
    (0x41, 0xD40): "Neoverse-V1",
    (0x41, 0xD41): "Cortex-A78",
    (0x41, 0xD42): "Cortex-A78AE",
    (0x41, 0xD49): "Neoverse-N2",
    (0x41, 0xD4F): "Neoverse-V2",
    (0x46, 0x001): "A64FX",
}


def flags() -> tuple[str, ...]:
    """Of ``FLAGS`` those this process may use, in that order."""
    return tuple(name for name, entry, bit in FLAGS if _auxiliary(entry) >> bit & 1)


def name() -> str:
    """The core's name with its MIDR_EL1; ``unknown`` where that may not be read."""
    midr = _midr()
    if midr is None:
        return "unknown"
    return named(midr)


def named(midr: int) -> str:
    """A core's name by MIDR_EL1."""
    core = CORES.get((midr >> 24 & 0xFF, midr >> 4 & 0xFFF), "unknown core")
    return f"{core} (MIDR {midr:#010x})"


def _auxiliary(entry: int) -> int:
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return int(getauxval(entry))


def _midr() -> int | None:
    """MIDR_EL1; ``None`` where the kernel does not let processes read it.

    The instructions are mapped from a file: the kernel then sees to it that the instruction cache
    has what was written, which on this architecture is nobody else's duty but the program's.
    """
    if not _auxiliary(AT_HWCAP) & _HWCAP_CPUID:
        return None
    try:
        with tempfile.TemporaryFile() as file:
            file.write(_CODE)
            file.flush()
            code = mmap.mmap(file.fileno(), len(_CODE), mmap.MAP_PRIVATE, prot=_ACCESS)
    except OSError:  # no temporary file may be executed here
        return None
    held = ctypes.c_char.from_buffer(code)
    try:
        return int(ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(held))())
    finally:
        del held  # else the memory cannot be given back
        code.close()
