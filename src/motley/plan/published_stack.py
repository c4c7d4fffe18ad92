"""Which software a published row was measured with, from its source and its notes."""

from __future__ import annotations

import re
from dataclasses import replace

from motley.plan.published import PublishedRow
from motley.plan.stack import (
    DEEPSPEED,
    LLM_FOUNDRY,
    MEGATRON,
    MEGATRON_2021,
    MEGATRON_DEEPSPEED,
    MEGATRON_DEEPSPEED_2020,
    MEGATRON_DEEPSPEED_BF16,
    NANOGPT,
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
    (r"megatron|nemo|llama 3 paper|flagscale", MEGATRON),
    (r"deepspeed|hugging ?face|zero-?3|flagperf", DEEPSPEED),
)
"""The first that fits counts."""

AFTER_FLASH = r"llama|qwen|mistral|mixtral|aquila|baichuan|internlm|deepseek|glm|gemma"
"""Families of 2023 and later, which no one trains with unfused attention."""


def stack_of(row: PublishedRow) -> tuple[Stack, list[str]]:
    """The stack of a row, and what was assumed of it."""
    for text in (row.source, row.model, row.notes, row.zero_or_fsdp):
        for pattern, stack in _SOURCES:
            if re.search(pattern, text.lower()):
                return _as_noted(stack, row), []
    return _as_noted(DEEPSPEED, row), ["framework not known: eager PyTorch, flash attention"]


def _as_noted(stack: Stack, row: PublishedRow) -> Stack:
    notes = row.notes.lower()
    if stack is TORCHTITAN and "torchtitan" in row.source and "compile" not in notes:
        stack = TORCHTITAN_EAGER
    if "async tp" in notes or "asynctp" in notes:
        stack = replace(stack, overlap_tensor=True)
    if "rowwise" in row.precision.lower():
        stack = replace(stack, fp8_rows=True)
    if stack is MEGATRON_DEEPSPEED and "bf16" in row.precision.lower():
        stack = MEGATRON_DEEPSPEED_BF16
    if "bert" in row.model.lower():
        stack = replace(stack, attention="unfused", softmax="eager", dropout=True)
    elif stack.attention != "flash" and (
        re.search(r"\bflash", notes) or re.search(AFTER_FLASH, row.model.lower())
    ):
        stack = replace(stack, attention="flash", dropout=False)
    return stack
