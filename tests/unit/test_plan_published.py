"""Published tables: reading them, what their words mean, and what is predicted of them.

The rows below are quoted from public tables with their sources; the facts at the end are ratios of
public measurements (FlagOpen/FlagPerf at commit 1b5a030).
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley.errors import InputError, UnknownChipError
from motley.plan.published.chips import named_chips
from motley.plan.published.model import Incomplete
from motley.plan.published.network import GIGABIT, network_of
from motley.plan.published.predict import predict
from motley.plan.published.rows import COLUMNS, PublishedRow, parse_table, read_table
from motley.plan.published.settle import case_of
from motley.plan.published.split import stage_bounds
from motley.plan.published.table import predict_rows, predict_table, summary

HEADER = ",".join(COLUMNS)


def row(**fields: object) -> PublishedRow:
    return PublishedRow(line=2, **fields)  # type: ignore[arg-type]


LLAMA = {
    "source": "pytorch/torchtitan docs/performance.md",
    "model": "Llama3-8B",
    "seq_len": 8192,
    "global_batch": 64,
    "micro_batch": 1,
    "chip": "A100-80GB",
    "n_chips": 64,
    "tp": 1,
    "pp": 1,
    "dp": 64,
    "zero_or_fsdp": "FSDP2",
    "precision": "bf16",
    "recompute": "selective op",
    "tokens_per_s_total": 190272.0,
}
GPT = {
    "source": "DachengLi1/AMP src/results/homogeneous_results.txt",
    "model": "GPT-2-medium",
    "n_layers": 24,
    "d_model": 1024,
    "n_heads": 16,
    "seq_len": 1024,
    "vocab": 52256,
    "global_batch": 32,
    "micro_batch": 2,
    "chip": "T4",
    "n_chips": 16,
    "interconnect": "AWS: 4x g4dn.12xlarge (PCIe, 50 Gbps)",
    "tp": 1,
    "pp": 4,
    "dp": 4,
}


# Reading


def test_every_line_is_read_or_reported() -> None:
    lines = ["chip,n_chips,seq_len,extra", "T4,8,1024,x", "T4,8", "T4,eight,1024,x", "", "T4,0,1,x"]
    table = parse_table("\n".join(lines))
    assert [each.line for each in table.rows] == [2]
    problems = {problem.line: problem.reason for problem in table.problems}
    assert problems.keys() == {1, 3, 4, 6}
    assert "n_chips: expected a whole number, found 'eight'" in problems[4]
    assert "must be above zero" in problems[6]
    assert "2 cells where the header has 4" in problems[3]


def test_the_header_tells_what_it_lacks_and_what_is_not_used() -> None:
    reasons = [problem.reason for problem in parse_table("chip,colour\nT4,red\n").problems]
    assert any("no column source" in reason for reason in reasons)
    assert any("unknown column colour" in reason for reason in reasons)


def test_a_table_without_chips_or_without_a_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column 'chip'"):
        parse_table("model,n_chips\nx,1\n")
    with pytest.raises(InputError, match="no such file"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "bytes.csv")


def test_numbers_are_read_as_people_write_them() -> None:
    (found,) = parse_table('chip,vocab,tokens_per_s_total\nT4,~250k,"1,200.5"\n').rows
    assert (found.vocab, found.tokens_per_s_total) == (250_000, 1200.5)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffchip,n_chips,tp\nT4,8,2\n",
        "\r\n  \r\nchip,n_chips,tp\r\n\r\nT4,8,2\r\n,,\r\n",
        "tp,colour,chip,n_chips\n2,red,T4,8\n",
        "Chip;N_Chips;TP\nT4;8;2\n",
        "chip\tn_chips\ttp\nT4\t8\t2\n",
        "chip,n_chips,tp,,\nT4,8,2,,\n",
        "chip,n_chips,tp\nT4,8,2,,,\n",
        "chip,n_chips,tp,dp\nT4,8,2,n/a\n",
    ],
    ids=["mark", "crlf", "order", "semicolons", "tabs", "empty names", "empty end", "n/a"],
)
def test_what_spreadsheets_do_to_a_table_is_put_up_with(text: str, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(text.encode())
    (found,) = read_table(tmp_path / "in.csv").rows
    assert (found.chip, found.n_chips, found.tp, found.dp) == ("T4", 8, 2, None)


def test_an_open_quote_costs_one_line() -> None:
    table = parse_table('chip,model\n"T4,one\nT4,two\n"T4","a\nname"\nT4,"three\n')
    assert [(each.line, each.model) for each in table.rows] == [(3, "two"), (4, "a\nname")]
    assert {problem.line for problem in table.problems} == {1, 2, 6}


@pytest.mark.parametrize("cell", ["2,5", "12,34", "1,2345", "1234,567", "1e400", "9e307B"])
def test_what_is_no_finite_number_is_reported(cell: str) -> None:
    table = parse_table(f'chip,params_b,tp\nT4,"{cell}",1\nT4,2.5,1\n')
    assert [each.params_b for each in table.rows] == [2.5]
    assert f"params_b: expected a number, found '{cell}'" in [p.reason for p in table.problems]


@pytest.mark.parametrize("cell", ["2,5", "1,200"])
def test_a_comma_beside_semicolons_is_not_guessed_at(cell: str) -> None:
    table = parse_table(f"chip;params_b\nT4;{cell}\nT4;2.5\n")
    assert [each.params_b for each in table.rows] == [2.5]
    assert any("may be a decimal one" in problem.reason for problem in table.problems)


@pytest.mark.parametrize("cell", ["45%", "about half", "-1"])
def test_cells_that_no_prediction_uses_cost_nothing(cell: str) -> None:
    table = parse_table(f"chip,n_chips,mfu,tflops_per_chip\nT4,8,{cell},{cell}\n")
    assert [each.n_chips for each in table.rows] == [8]
    assert {problem.line for problem in table.problems} == {1}


@pytest.mark.parametrize("number", ["1e12", "1e300", "1e308", "1e-300"])
def test_no_number_ends_the_table(number: str) -> None:
    written = {name: str(value) for name, value in GPT.items()} | {"step_s": "1"}
    numbers = [name for name, value in GPT.items() if isinstance(value, int)]
    lines = [written | {name: number} for name in (*numbers, "step_s")]
    lines.append(written | {"n_layers": "", "params_b": number})
    text = "\n".join(";".join(cells.get(name, "") for name in COLUMNS) for cells in lines)
    table = parse_table(f"{';'.join(COLUMNS)}\n{text}\n")
    assert len(predict_rows(table)) + len(table.problems) == len(lines)


@given(st.lists(st.lists(st.text(max_size=6), max_size=4), max_size=6), st.sampled_from(",;\t"))
def test_any_text_below_a_header_is_read_or_reported(
    cells: list[list[str]], delimiter: str
) -> None:
    header = delimiter.join(("chip", "tp", "vocab"))
    table = parse_table("\n".join([header, *map(delimiter.join, cells)]))
    lines = [each.line for each in (*table.rows, *table.problems) if each.line > 1]
    assert len(set(lines)) == len(lines)


# Chips


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("A100-80GB-SXM", ["nvidia-a100-sxm-80g"]),
        ("A100 (DGX-A100)", ["nvidia-a100-sxm-40g"]),
        ("V100-32GB (DGX-2)", ["nvidia-v100-sxm2-32g"]),
        ("12x V100-16GB + 4x T4", ["nvidia-v100-sxm2-16g", "nvidia-t4"]),
        ("GH200-96GB", ["nvidia-gh200-96g"]),
        ("MI300X", ["amd-mi300x-192g"]),
        ("Ascend 910B", ["huawei-ascend-910b3"]),
        ("Atlas 800T A2 (910B)", ["huawei-ascend-910b3"]),
        ("H100 PCIe", ["nvidia-h100-pcie-80g"]),
        ("RTX 4090", ["nvidia-rtx-4090"]),
        ("3090", ["nvidia-rtx-3090"]),
        ("BI-V100", ["iluvatar-bi-v100"]),
        ("Gaudi 2", ["intel-gaudi2"]),
        ("TPU v4", ["google-tpu-v4"]),
    ],
)
def test_loose_names_resolve_to_catalog_chips(name: str, ids: list[str]) -> None:
    assert [chip.catalog.id for chip in named_chips(name)] == ids


def test_a_name_may_change_memory_power_and_count() -> None:
    (chip,) = named_chips("H100-96GB HBM2e 500W")
    assert chip.catalog.memory_gb == 96
    assert chip.catalog.mem_bandwidth_gbps == pytest.approx(2448)
    assert chip.power_w == 500
    assert any("96 GB" in entry for entry in chip.assumed)
    assert [part.count for part in named_chips("12x V100-16GB + 4x T4")] == [12, 4]
    assert named_chips("H100-80GB 700W")[0].power_w is None, "no limit below its own power"


@pytest.mark.parametrize("name", ["RTX 2060", "abacus", "V100-16GB + T4"])
def test_unknown_chips_are_refused_never_another(name: str) -> None:
    with pytest.raises(UnknownChipError):
        named_chips(name)


# Networks


@pytest.mark.parametrize(
    ("text", "per_node", "gigabits"),
    [
        ("RoCE 1600 Gbps node-node", 8, 1600),
        ("NVLink 8/host + RDMA 400 Gb/s per GPU", 8, 3200),
        ("Jean Zay: 2 nodes x 4 GPU, Omni-Path", 4, 400),
        ("AWS: 4x g4dn.12xlarge (PCIe, 50 Gbps)", 4, 50),
        ("AWS: 3x p3.8xlarge (NVLink, 10 Gbps) + 1x g4dn.12xlarge (50 Gbps)", 4, 10),
        ("Selene (DGX A100)", 8, 1600),
        ("3.2 Tbps", 8, 3200),
    ],
)
def test_networks_are_read_from_rates_and_known_machines(
    text: str, per_node: int, gigabits: float
) -> None:
    found = network_of(text, named_chips("A100-80GB")[0].catalog, 64)
    assert found.per_node == per_node
    assert found.node_bytes_per_s == pytest.approx(gigabits * GIGABIT)
    assert not found.assumed


def test_a_network_that_is_not_given_is_assumed_aloud() -> None:
    chip = named_chips("A100-80GB")[0].catalog
    assert "network not given" in network_of("", chip, 64).assumed
    assert not network_of("", chip, 8).assumed, "one node needs none"


# Cases


def test_a_row_becomes_model_chips_layout_and_stack() -> None:
    case = case_of(row(**LLAMA))
    assert (case.config.layers, case.config.width) == (32, 4096)
    assert case.layout == (1, 64, 1, "full", "selective")
    assert case.stack.name == "torchtitan-eager"
    assert case.tokens_per_step == 64 * 8192
    assert (case.num_stages, case.num_replicas, case.num_micro_batches) == (1, 1, 1)


def test_what_a_row_leaves_open_is_filled_by_rules_and_told() -> None:
    fields = {**GPT, "n_heads": None, "model": "?", "vocab": None, "micro_batch": None}
    case = case_of(row(**fields))
    told = "; ".join(case.assumed)
    for what in ("heads not given: 16", "vocabulary not given", "micro_batch not given: 1"):
        assert what in told
    layers = case_of(row(**{**GPT, "model": "?", "n_layers": None, "params_b": 0.355}))
    assert layers.config.layers == 24


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "torchtitan-eager"),
        ({"notes": "torch.compile"}, "torchtitan"),
        ({"zero_or_fsdp": "none"}, "pytorch"),
        ({"zero_or_fsdp": "none", "notes": "output in bf16"}, "pytorch"),
        ({"chip": "TPU v5p"}, "maxtext"),
        ({"zero_or_fsdp": "ZeRO-2"}, "deepspeed"),
        ({"zero_or_fsdp": "ZeRO-1", "tp": 8, "dp": 8}, "megatron"),
        ({"zero_or_fsdp": "", "tp": 8, "dp": 8, "model": "gpt2-xl"}, "megatron-2021"),
        ({"zero_or_fsdp": "", "tp": 8, "dp": 8, "model": "gpt2-xl", "chip": "H100"}, "megatron"),
    ],
)
def test_an_unknown_framework_is_taken_as_a_typical_one(
    changes: dict[str, object], name: str
) -> None:
    fields = {**LLAMA, "source": "somebody/something README", **changes}
    case = case_of(row(**fields))
    assert case.stack.name == name
    assert any(f"framework not known: {name}, as " in each for each in case.assumed)
    known = case_of(row(**{**fields, "source": "pytorch/torchtitan"}), known_framework=False)
    assert (known.stack.name, known.assumed) == (name, case.assumed)


def test_unknown_heads_are_those_of_the_nearest_row_of_the_source() -> None:
    known = row(**{**GPT, "n_heads": 8, "model": "?"})
    case = case_of(row(**{**GPT, "n_heads": None, "model": "?"}), [known])
    assert case.config.heads == 8


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dp": 2}, "contradiction"),
        ({"d_model": None, "model": "Abacus"}, "d_model is missing"),
        ({"global_batch": None, "micro_batch": None}, "both missing"),
        ({"seq_len": None, "model": "?"}, "seq_len is missing"),
        ({"n_heads": 7}, "do not divide"),
        ({"precision": "fp8"}, "no fp8 rate"),
    ],
)
def test_a_row_that_says_too_little_is_skipped_with_the_reason(
    changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(Incomplete, match=reason):
        case_of(row(**{**GPT, **changes}))


@pytest.mark.parametrize("changes", [{"n_layers": 1000}, {"n_chips": 1_000_000, "dp": 250_000}])
def test_the_largest_rows_are_predicted(changes: dict[str, object]) -> None:
    assert predict(case_of(row(**{**GPT, "model": "?", **changes}))).step_s > 0


def test_stages_follow_the_rows_partition_or_the_stack() -> None:
    notes = "stage partition over 30 ops [0, 9, 15, 21, 30]"
    told = case_of(row(**{**GPT, "notes": notes}))
    assert stage_bounds(told) == ((0, 8), (8, 14), (14, 20), (20, 26))
    even = stage_bounds(case_of(row(**GPT)))
    assert even == ((0, 7), (7, 13), (13, 19), (19, 26))
    bloom = {**GPT, "source": "bigscience-workshop/bigscience", "n_layers": 22, "model": "?"}
    assert stage_bounds(case_of(row(**bloom))) == ((0, 6), (6, 12), (12, 18), (18, 24))


def test_unlike_chips_hold_up_the_stage_that_they_are_in() -> None:
    mixed = {**GPT, "chip": "12x V100-16GB + 4x T4", "pp": 1, "dp": 16, "micro_batch": 1}
    slow, fast = ({**mixed, "chip": chip} for chip in ("T4", "V100-16GB"))
    seconds = [predict(case_of(row(**fields))).pipeline_s for fields in (fast, mixed, slow)]
    assert seconds[0] < seconds[1] == pytest.approx(seconds[2])


# Predictions


QUOTED = (
    (row(**LLAMA), 0.15),
    (row(**{**LLAMA, "recompute": "selective layer", "tokens_per_s_total": 185856.0}), 0.15),
    (row(**GPT, step_s=1.41, notes="stage partition over 30 ops [0, 9, 15, 21, 30]"), 0.2),
    (
        row(
            source="mosaicml/llm-foundry", model="MPT-7b", n_layers=32, d_model=4096, n_heads=32,
            seq_len=2048, vocab=50368, global_batch=96, micro_batch=6, chip="A100-80GB", n_chips=8,
            tp=1, pp=1, dp=8, zero_or_fsdp="FSDP FULL_SHARD", precision="amp_bf16",
            recompute="none", tokens_per_s_total=37130.0,
        ),
        0.2,
    ),
)  # fmt: skip
"""Published rows and how far off a prediction may be."""


@pytest.mark.parametrize(("published", "band"), QUOTED)
def test_published_steps_are_predicted_within_the_band(
    published: PublishedRow, band: float
) -> None:
    case = case_of(published)
    measured = published.step_s or case.tokens_per_step / (published.tokens_per_s_total or 1.0)
    assert predict(case).step_s == pytest.approx(measured, rel=band)


def test_a_table_is_predicted_line_by_line(tmp_path: Path) -> None:
    lines = [
        HEADER,
        "x,Llama2-7B,,,,,4096,,64,1,A100-80GB,8,,1,1,8,FSDP,bf16,full,,,,9.0,",
        "x,Llama2-7B,,,,,4096,,64,1,abacus,8,,1,1,8,FSDP,bf16,full,,,,,",
        "x,Llama2-7B,,,,,4096,,many,1,A100-80GB,8,,1,1,8,FSDP,bf16,full,,,,,",
    ]
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("\n".join(lines), encoding="utf-8")
    said: list[str] = []
    result = predict_table(source, out, said.append)
    assert (result["rows"], result["predicted"], result["compared"]) == (2, 1, 1)
    assert [entry["line"] for entry in result["unreadable_lines"]] == [4]
    assert any("line 3: skipped: the catalog has no chip 'abacus'" in text for text in said)
    with out.open(encoding="utf-8", newline="") as file:
        first, second, third = csv.DictReader(file)
    assert [first["status"], second["status"]] == ["predicted", "skipped"]
    assert (third["line"], third["status"]) == ("4", "unreadable")
    assert "found 'many'" in third["reason"]
    step = float(first["predicted_step_s"])
    assert float(first["error"]) == pytest.approx(step / 9.0 - 1, abs=1e-4)
    assert float(first["predicted_tokens_per_s_total"]) == pytest.approx(64 * 4096 / step, rel=1e-4)
    assert 0.2 < float(first["predicted_mfu"]) < 0.8


def test_an_empty_table_has_a_summary() -> None:
    table = parse_table(HEADER)
    assert summary(table, predict_rows(table))["median_error"] is None


# Facts


def tokens_per_s(chip: str, tensor: int, precision: str = "bf16", **changes: object) -> float:
    """Of a Llama3-8B training on one node of eight with Megatron, as FlagPerf runs it."""
    fields = {
        "source": "Megatron", "model": "Llama3-8B", "seq_len": 8192, "global_batch": 128,
        "micro_batch": 1, "chip": chip, "n_chips": 8, "tp": tensor, "pp": 1, "dp": 8 // tensor,
        "zero_or_fsdp": "ZeRO-1", "precision": precision, "recompute": "none", **changes,
    }  # fmt: skip
    case = case_of(row(**fields))
    return case.tokens_per_step / predict(case).step_s


FACT_BAND = 0.1
"""How far a predicted ratio of two chips may be from the measured ones."""


@pytest.mark.parametrize("tensor", [1, 2])
def test_an_h100_is_worth_two_to_two_and_a_half_a100_on_an_8b_llama(tensor: int) -> None:
    ratio = tokens_per_s("H100-80GB", tensor) / tokens_per_s("A100-80GB", tensor)
    assert 2.0 * (1 - FACT_BAND) < ratio < 2.4 * (1 + FACT_BAND)


@pytest.mark.parametrize("tensor", [1, 2])
def test_an_h100_in_fp8_is_worth_about_three_a100_on_an_8b_llama(tensor: int) -> None:
    ratio = tokens_per_s("H100-80GB", tensor, "fp8") / tokens_per_s("A100-80GB", tensor)
    assert 2.6 * (1 - FACT_BAND) < ratio < 3.1 * (1 + FACT_BAND)


@pytest.mark.parametrize("micro_batch", [16, 32])
def test_an_a100_40_is_worth_about_one_ascend_910b_on_bert_large(micro_batch: int) -> None:
    bert = {
        "source": "Megatron-LM images", "model": "BERT-large", "n_layers": 24, "d_model": 1024,
        "n_heads": 16, "seq_len": 512, "vocab": 30522, "global_batch": None,
        "micro_batch": micro_batch, "zero_or_fsdp": "",
    }  # fmt: skip
    ratio = tokens_per_s("A100-40GB", 1, **bert) / tokens_per_s("Ascend 910B", 1, **bert)
    assert ratio == pytest.approx(1.05, rel=FACT_BAND)


def test_weaker_chips_come_in_the_measured_order_on_mpt_7b() -> None:
    """Databricks 2024: Gaudi2 before A100-80, A100-40, and an MI250 at 1/1.30 of an A100-80."""
    mpt = {"source": "mosaicml/llm-foundry", "model": "MPT-7b", "seq_len": 2048, "micro_batch": 8}
    chips = ("Gaudi2", "A100-80GB", "A100-40GB", "MI250")
    speeds = [tokens_per_s(chip, 1, zero_or_fsdp="FSDP", **mpt) for chip in chips]
    assert speeds == sorted(speeds, reverse=True)
    assert speeds[1] / speeds[3] == pytest.approx(1.30, rel=0.15)
