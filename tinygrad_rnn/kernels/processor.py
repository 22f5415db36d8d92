"""The processor that everything is compiled for: this one, or another that Numba's own settings name.

Numba reads NUMBA_CPU_NAME and NUMBA_CPU_FEATURES, and keeps what it compiles for one processor apart from what it
compiles for another. What is written for LLVM here follows. So the widest x86 can run what is compiled for the others
(features that are not set at all are those of this processor):

    NUMBA_CPU_NAME=x86-64-v4 NUMBA_CPU_FEATURES=-prefer-256-bit     # AVX-512, as AMD's processors use it
    NUMBA_CPU_NAME=x86-64-v4 NUMBA_CPU_FEATURES=+prefer-256-bit     # AVX-512, as Intel's do
    NUMBA_CPU_NAME=x86-64-v3 NUMBA_CPU_FEATURES=                    # AVX2
    NUMBA_CPU_NAME=x86-64 NUMBA_CPU_FEATURES=                       # neither
"""

from typing import Any

from llvmlite import binding
from numba import config
from numba.core.codegen import get_host_cpu_features, initialize_llvm
from numba.core.compiler_lock import global_compiler_lock


def processor() -> tuple[str, str]:
    """Its name and its features, as LLVM writes them. A feature that the name implies need not be written."""
    features = get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES
    return str(config.CPU_NAME or binding.get_host_cpu_name()), str(features)


def target() -> Any:
    """Its family: the architecture and the system."""
    with global_compiler_lock:
        initialize_llvm()
        return binding.Target.from_default_triple()


def compiler() -> Any:
    """What turns LLVM's instructions into its machine code."""
    family = target()
    relocation = "static" if family.name.startswith("x86") else "default"
    return family.create_target_machine(*processor(), opt=3, reloc=relocation, codemodel="jitdefault", jit=True)


def assembly(text: str) -> str:
    """What the text of a module becomes as it is: a question to LLVM, which knows the features of all processors."""
    with global_compiler_lock:
        return str(compiler().emit_assembly(binding.parse_assembly(text)))
