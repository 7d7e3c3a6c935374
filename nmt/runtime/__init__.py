"""Device, precision, random generators, processes and logging."""

from __future__ import annotations

from nmt.runtime.device import (
    Hardware,
    Runtime,
    choose_precision,
    cpu_flags,
    explaining_determinism,
    free_memory,
    gpu_memory,
    has_amx,
    in_bytes,
    in_halves,
    is_out_of_memory,
    pinned,
    product_dtype,
    recurrent_dtype,
    set_up,
    settle_memory,
    widest_dtype,
)
from nmt.runtime.log import FILE_ONLY, format_table, logger, logging_restored, set_up_logging
from nmt.runtime.processes import (
    all_reduce_sum,
    barrier,
    broadcast_object,
    gather_objects,
    tear_down,
    watching_the_others,
)
from nmt.runtime.randomness import rng_state, seed_everything, set_rng_state
