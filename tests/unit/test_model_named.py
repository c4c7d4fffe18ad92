"""Models by name: every way to write it, the published numbers of parameters, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from motley.errors import RecipeError
from motley.model.counts import model_counts
from motley.model.named import ALIASES, model_named, preset_named
from motley.model.presets import PRESETS

PUBLISHED_TOTALS = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "opt-125m": 125_239_296,
    "opt-350m": 331_196_416,
    "opt-1.3b": 1_315_758_080,
    "opt-2.7b": 2_651_596_800,
    "opt-6.7b": 6_658_473_984,
    "opt-13b": 12_853_473_280,
    "opt-30b": 29_974_540_288,
    "opt-66b": 65_719_701_504,
    "bloom-560m": 559_214_592,
    "bloom-1b1": 1_065_314_304,
    "bloom-1b7": 1_722_408_960,
    "bloom-3b": 3_002_557_440,
    "bloom-7b1": 7_069_016_064,
    "bloom-176b": 176_247_271_424,
    "mpt-7b": 6_649_286_656,
    "mpt-30b": 29_957_200_896,
    "gpt-neox-20b": 20_554_567_680,
    "pythia-160m": 162_322_944,
    "pythia-410m": 405_334_016,
    "pythia-1b": 1_011_781_632,
    "pythia-1.4b": 1_414_647_808,
    "pythia-2.8b": 2_775_208_960,
    "pythia-6.9b": 6_857_302_016,
    "pythia-12b": 11_846_072_320,
    "llama1-7b": 6_738_415_616,
    "llama1-13b": 13_015_864_320,
    "llama1-33b": 32_528_943_616,
    "llama1-65b": 65_285_660_672,
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "tinyllama-1.1b": 1_100_048_384,
    "smollm-1.7b": 1_711_376_384,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3.1-8b": 8_030_261_248,
    "llama3.1-70b": 70_553_706_496,
    "llama3.1-405b": 405_853_388_800,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "deepseek-v3": 671_026_404_352,
}
"""Exact, of models with public weights; without what is no parameter, as routers' corrections."""
UNPUBLISHED_BILLIONS = {
    "gpt3-125m": 0.125, "gpt3-350m": 0.356, "gpt3-760m": 0.760, "gpt3-1.3b": 1.3, "gpt3-2.7b": 2.7,
    "gpt3-6.7b": 6.7, "gpt3-13b": 13.0, "gpt3-175b": 175.0, "opt-175b": 175.0, "palm-540b": 540.35,
    "mpt-125m": 0.1253, "mpt-350m": 0.3560, "mpt-760m": 0.7605, "mpt-1b": 1.3160, "mpt-3b": 2.6518,
    "mpt-13b": 12.854, "mpt-70b": 64.8624, "llama2-34b": 33.7,
}  # fmt: skip
"""Of shapes without public weights: as stated, in billions, to the digits given. MPT's are those
of LLM Foundry's table of throughputs at a sequence length of 2048."""


@pytest.mark.parametrize(("name", "total"), PUBLISHED_TOTALS.items())
def test_presets_have_the_published_number_of_parameters(name: str, total: int) -> None:
    assert model_counts(PRESETS[name], 1).parameters == total


@pytest.mark.parametrize(("name", "billions"), UNPUBLISHED_BILLIONS.items())
def test_presets_without_weights_have_the_stated_size(name: str, billions: float) -> None:
    tolerance = 1e-4 if name.startswith(("mpt", "palm")) else 0.02
    assert model_counts(PRESETS[name], 1).parameters / 1e9 == pytest.approx(billions, rel=tolerance)


def test_every_preset_has_a_number() -> None:
    assert {*PUBLISHED_TOTALS, *UNPUBLISHED_BILLIONS} == set(PRESETS)


@pytest.mark.parametrize(
    ("written", "preset"),
    [
        *((name, name) for name in PRESETS),
        *ALIASES.items(),
        ("meta-llama/Meta-Llama-3-8B", "llama3-8b"),
        ("meta-llama/Llama-3.1-405B-Instruct", "llama3.1-405b"),
        ("meta-llama/Llama-2-7b-chat-hf", "llama2-7b"),
        ("Llama3.1-8B", "llama3.1-8b"),
        ("LLAMA_2_13B", "llama2-13b"),
        ("openai-community/gpt2-xl", "gpt2-xl"),
        ("GPT-3 175B", "gpt3-175b"),
        ("facebook/opt-350m", "opt-350m"),
        ("bigscience/bloom", "bloom-176b"),
        ("EleutherAI/pythia-12b-deduped", "pythia-12b"),
        ("mistralai/Mixtral-8x22B-Instruct-v0.1", "mixtral-8x22b"),
        ("Qwen/Qwen3-0.6B-Base", "qwen3-0.6b"),
        ("Qwen/Qwen3-30B-A3B", "qwen3-30b-a3b"),
        ("deepseek-ai/DeepSeek-V3-Base", "deepseek-v3"),
    ],
)
def test_a_model_goes_by_many_names(written: str, preset: str) -> None:
    assert preset_named(written) == preset
    assert model_named(written) == PRESETS[preset]


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("llama3-8bb", "Did you mean 'llama3-8b'?"),
        ("llama3-18b", "Did you mean 'llama3"),
        ("gpt2-xxl", "Did you mean 'gpt2-xl'?"),
        ("Mixtral-8x8B", "Did you mean 'mixtral-8x"),
        ("", "Known models: gpt2, "),
        ("????", "Known models: gpt2, "),
    ],
)
def test_an_unknown_name_suggests_the_nearest(written: str, hint: str) -> None:
    with pytest.raises(RecipeError) as refused:
        model_named(written or "-")
    assert hint in str(refused.value)


def test_a_config_json_by_its_path_or_folder(tmp_path: Path) -> None:
    table = {
        "model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48, "max_position_embeddings": 64, "vocab_size": 99,
    }  # fmt: skip
    path = tmp_path / "small" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(table))
    read = model_named(path)
    assert (read.layers, read.width, read.mlp_width) == (2, 32, 48)
    assert model_named(str(path.parent)) == read
    assert model_named("small", tmp_path) == model_named("small/config.json", tmp_path) == read


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("{", "cannot be read as JSON"),
        ("[" * 100000, "cannot be read as JSON"),
        ("\xff\xfe", "cannot be read as JSON"),
        ("[]", "expected the table"),
        ("{}", "model_type 'None' is not supported"),
        ('{"model_type": "lama"}', "Did you mean 'llama'"),
        ('{"model_type": "llama"}', "'num_hidden_layers' is missing"),
    ],
)
def test_a_bad_config_json_is_one_clear_error(
    content: str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(RecipeError, match=message):
        model_named(path)
