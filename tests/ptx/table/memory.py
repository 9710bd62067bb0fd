"""Loads, stores, atomics, asynchronous copies and fences (PTX ISA, "Data Movement", "Parallel Synchronization").

What a cache hint changes cannot be seen here: hints are read and left aside.
"""

from ..forms import machine

_TYPE = "{type: b8 u8 s8 b16 u16 s16 f16 b32 u32 s32 f32 b64 u64 s64 f64}"
_VECTOR = "[.{vector: v2 v4 v8}]"
_SPACE = "[.{space: global const shared::cta shared param}]"
_CHANGED = "[.{space: global shared::cta shared}]"
_SCOPE = "{scope: cta cluster gpu sys}"
_HINTS = (
    "[.{eviction: L1::evict_normal L1::evict_unchanged L1::evict_first L1::evict_last L1::no_allocate}]"
    "[.{second: L2::evict_normal L2::evict_first L2::evict_last}][.{policy: L2::cache_hint}]"
    "[.{prefetch: L2::64B L2::128B L2::256B}]"
)
_CACHE = "[.{cache: ca cg cs lu cv wb wt}]"
_SEMANTICS = "{semantics: relaxed acquire release acq_rel}"
_ATOMIC_TYPE = "{type: b32 u32 s32 b64 u64 s64 f32 f64}"
_OPERATION = "{operation: add and or xor min max exch inc dec cas}"

ROWS = [
    machine(f"ld[.weak]{_SPACE}{_CACHE}[.{{cached: nc}}]{_HINTS}{_VECTOR}.{_TYPE}", "load"),
    machine(f"ld.{{semantics: volatile}}{_SPACE}{_VECTOR}.{_TYPE}", "load"),
    machine(f"ld.{{semantics: relaxed acquire}}.{_SCOPE}{_SPACE}{_HINTS}{_VECTOR}.{_TYPE}", "load"),
    machine(f"st[.weak]{_CHANGED}{_CACHE}{_HINTS}{_VECTOR}.{_TYPE}", "store"),
    machine(f"st.{{semantics: volatile}}{_CHANGED}{_VECTOR}.{_TYPE}", "store"),
    machine(f"st.{{semantics: relaxed release}}.{_SCOPE}{_CHANGED}{_HINTS}{_VECTOR}.{_TYPE}", "store"),
    machine(f"atom[.{_SEMANTICS}][.{_SCOPE}]{_CHANGED}.{_OPERATION}.{_ATOMIC_TYPE}", "atomic"),
    machine(f"atom{_CHANGED}.{_SCOPE}.{_SEMANTICS}.{_OPERATION}.{_ATOMIC_TYPE}", "atomic"),
    machine(f"atom{_CHANGED}[.{_SCOPE}].{_OPERATION}.{_ATOMIC_TYPE}", "atomic"),
    machine(f"red[.{_SEMANTICS}][.{_SCOPE}]{_CHANGED}.{_OPERATION}.{_ATOMIC_TYPE}", "atomic"),
    machine(f"red{_CHANGED}.{_SCOPE}.{_SEMANTICS}.{_OPERATION}.{_ATOMIC_TYPE}", "atomic"),
    machine(f"red{_CHANGED}[.{_SCOPE}].{_OPERATION}.{_ATOMIC_TYPE}", "atomic"),
    machine(f"cp.async.{{cache: ca cg}}.shared[::cta].global{_HINTS}", "copy"),
    machine("cp.async.commit_group", "commit_copies"),
    machine("cp.async.wait_group", "wait_for_copies"),
    machine("cp.async.wait_all", "wait_for_copies"),
    machine(f"fence[.{{semantics: sc acq_rel acquire release}}].{_SCOPE}", "fence"),
    machine("membar.{scope: cta gl sys}", "fence"),
    machine("fence.proxy.async[.{space: shared::cta global}]", "proxy_fence"),
    machine(f"st.param{_VECTOR}.{_TYPE}", "nothing"),  # an argument of a call, which is executed as a trap
    machine("prefetch[.global].{level: L1 L2}", "nothing"),
]
