"""`python -m fastkd.report`: one file, runs side by side."""

from fastkd import report


def test_report_of_several_runs(finished, tmp_path, capsys):
    out = tmp_path / "both.html"
    assert report.main([str(finished), str(finished), "--out", str(out)]) == 0
    page = out.read_text()
    assert page.count("<svg") == 6
    for outside in ("http://", "https://", "<script", "src="):
        assert outside not in page
    assert "stages[student].method" in page and "wrn_16_2" not in page
