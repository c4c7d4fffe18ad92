"""Which software a published row was measured with, from its source and its notes."""

from __future__ import annotations

import re
from dataclasses import replace

from motley.plan.published.chips import named_chips
from motley.plan.published.rows import PublishedRow
from motley.plan.stack import (
    DEEPSPEED,
    LLM_C,
    LLM_FOUNDRY,
    MAXTEXT,
    MEGATRON,
    MEGATRON_2021,
    MEGATRON_DEEPSPEED,
    MEGATRON_DEEPSPEED_2020,
    MEGATRON_DEEPSPEED_BF16,
    NANOGPT,
    NEMO,
    PYTORCH,
    SAILOR,
    TORCHTITAN,
    TORCHTITAN_EAGER,
    Stack,
)

_SOURCES: tuple[tuple[str, Stack], ...] = (
    (r"dachengli1/amp", MEGATRON_DEEPSPEED_2020),
    (r"bigscience|megatron-deepspeed|megatron-ds", MEGATRON_DEEPSPEED),
    (r"megatron-lm images|arxiv 2104\.04473", MEGATRON_2021),
    (r"llm-foundry|llmfoundry|composer|mosaic", LLM_FOUNDRY),
    (r"torchtitan|fms-fsdp", TORCHTITAN),
    (r"sailor", SAILOR),
    (r"nanogpt|litgpt|tinyllama|picotron", NANOGPT),
    (r"maxtext|\bjax|paxml|levanter|\btpu", MAXTEXT),
    (r"llm\.c\b|llm\.kittens", LLM_C),
    (r"nemo(?![a-z])|megatron-bridge", NEMO),
    (r"megatron|llama 3 paper|flagscale", MEGATRON),
    (r"deepspeed|hugging ?face|zero-?3|flagperf", DEEPSPEED),
)
"""The first that fits counts."""

AFTER_FLASH = r"llama|qwen|mistral|mixtral|aquila|baichuan|internlm|deepseek|glm|gemma|olmo|phi|yi-"
"""Families of 2023 and later, which no one trains with unfused attention."""

BEFORE_FLASH = 2020
"""Year of the last chips on which large models were trained with unfused attention, which flash
attention (arXiv 2205.14135) ended in 2022."""


def stack_of(row: PublishedRow, *, known: bool = True) -> tuple[Stack, list[str]]:
    """The stack of a row, and what was assumed of it; as if nobody knew its framework unless
    `known`."""
    for text in (row.source, row.model, row.notes, row.zero_or_fsdp) if known else ():
        for pattern, stack in _SOURCES:
            if re.search(pattern, text.lower()):
                return _as_noted(_of_its_time(_compiled(stack, row), row), row), []
    stack, why = typical_stack(row)
    return _as_noted(stack, row), [f"framework not known: {stack.name}, {why}"]


def typical_stack(row: PublishedRow) -> tuple[Stack, str]:
    """What most trainings of that layout and time run on, and why it was taken."""
    sharing = row.zero_or_fsdp.lower()
    compiled = "compile" in row.notes.lower()
    if all(chip.catalog.vendor == "Google" for chip in named_chips(row.chip)):
        return MAXTEXT, "as TPUs are mostly programmed in JAX"
    if "fsdp" in sharing or "hsdp" in sharing:
        return (TORCHTITAN if compiled else TORCHTITAN_EAGER), "as it shards with FSDP"
    if (row.tp or 1) > 1 or (row.pp or 1) > 1:
        if _before_flash(row):
            return MEGATRON_2021, "as it splits layers, on chips of before flash attention"
        return MEGATRON, "as it splits layers"
    if "zero" in sharing:
        return DEEPSPEED, "as it shards with ZeRO"
    return (NANOGPT if compiled else PYTORCH), "as it splits only the batch"


def _before_flash(row: PublishedRow) -> bool:
    """Whether chip and model are older than flash attention."""
    if re.search(AFTER_FLASH, row.model.lower()):
        return False
    years = [chip.catalog.year for chip in named_chips(row.chip)]
    return max(year or BEFORE_FLASH + 1 for year in years) <= BEFORE_FLASH


def _of_its_time(stack: Stack, row: PublishedRow) -> Stack:
    """Megatron-LM as it was on chips for which there is no flash attention."""
    return MEGATRON_2021 if stack is MEGATRON and _before_flash(row) else stack


def _compiled(stack: Stack, row: PublishedRow) -> Stack:
    """torchtitan compiles only where a row says so."""
    eager = (
        stack is TORCHTITAN and "torchtitan" in row.source and "compile" not in row.notes.lower()
    )
    return TORCHTITAN_EAGER if eager else stack


def _as_noted(stack: Stack, row: PublishedRow) -> Stack:
    notes = row.notes.lower()
    if "async tp" in notes or "asynctp" in notes:
        stack = replace(stack, overlap_tensor="async")
    if "rowwise" in row.precision.lower():
        stack = replace(stack, fp8_scaling="row")
    if stack is MEGATRON_DEEPSPEED and "bf16" in row.precision.lower():
        stack = MEGATRON_DEEPSPEED_BF16
    if "bert" in row.model.lower():
        stack = replace(stack, attention="unfused", softmax="eager", dropout=True)
    elif stack.attention != "flash" and (
        re.search(r"\bflash", notes) or re.search(AFTER_FLASH, row.model.lower())
    ):
        stack = replace(stack, attention="flash", dropout=False)
    return stack
