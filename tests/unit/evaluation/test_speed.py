"""The benchmark runs and reports; its figures are for a quiet machine, so no test holds them to a limit."""

import json

from tests.benchmarks import speed
from tests.support import fake_checkpoints as fakes


def test_the_benchmark_reports_every_comparison(tmp_path, capsys):
    folder = fakes.save(tmp_path / "tiny")
    report = tmp_path / "speed.json"
    speed.main(["--checkpoint", str(folder), "--rounds", "2", "--tokens", "3", "--json", str(report)])
    written = json.loads(report.read_text())
    assert [row["limit"] for row in written["rows"]] == [1.05, None, 1.05, 1.05, None, 0.5, 0.5, 0.5, 1.05]
    assert all(row["ours"] > 0 and row["other"] > 0 and row["ratio"] > 0 for row in written["rows"])
    assert written["pipeline"]["model"] == "tiny" and written["peak_memory_gb"] > 0
    assert "third turn" in capsys.readouterr().out
    parts = dict(written["where_time_goes"])
    assert {"ViT", "Q-Former", "2 further steps"} < set(parts) and all(
        second > 0 for second in parts.values()
    )
    # The capture alone: its tensors are in memory once, and are made from as many projections.
    assert 0 < written["memory_held_by_capture_mb"] <= written["memory_added_by_capture_mb"] + 0.1 < 50


def test_both_sides_write_the_same_number_of_tokens():
    pipe = fakes.pipeline()
    pipe.model.language_model.generation_config.min_new_tokens = 7
    lengths, seen = [], set()
    generate = pipe.model.language_model.generate

    def counted(**options):
        out = generate(**options)
        sequences = out if hasattr(out, "shape") else out.sequences
        lengths.append(sequences.shape[1] - options["input_ids"].shape[1])
        return out

    pipe.model.language_model.generate = counted
    for name, _, *sides in speed.comparisons(pipe, 7):
        found = []
        for prepare, call in sides:
            prepare()
            lengths.clear()
            call()
            found.append(set(lengths))
        assert found[0] == found[1] and len(found[0]) == 1, name
        seen |= found[0]
    assert seen == {1, 3, 7, 14}
