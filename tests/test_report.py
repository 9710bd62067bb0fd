"""`python -m fastkd.report`: one file that tells runs apart, compares them and draws them."""

import json
import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from helpers.made_runs import write_run
from helpers.tiny import tiny_recipe

from fastkd import recipes, report
from fastkd.recipes.recipe import recipe_to_plain

HITS = {"teacher": [90, 92], "student": [85, 89], "control": [70, 74]}


def with_method(method, **changes):
    made = recipes.digits(teacher_net="resnet8", student="resnet8", method=method)
    return replace(made, **({"seeds": 2} | changes))


@pytest.fixture
def two(tmp_path):
    """KD, and KD with AT, over two seeds."""
    other = {stage: [hit + 1 for hit in hits] for stage, hits in HITS.items()}
    return [
        write_run(tmp_path / "one", with_method("kd"), HITS),
        write_run(tmp_path / "two", with_method("kd+at"), other, host="elsewhere"),
    ]


def written(tmp_path, *folders):
    report.write_report(folders, tmp_path / "page.html")
    return (tmp_path / "page.html").read_text()


def table(page, heading):
    """{first cell: {head: cell}} of the first table behind a heading, as text."""
    found = re.search(rf"<h2>{heading}</h2>.*?(<table.*?</table>)", page, re.DOTALL)
    rows = [["".join(cell.itertext()).strip() for cell in row] for row in ET.fromstring(found[1]).iter("tr")]
    return {first: dict(zip(rows[0][1:], rest, strict=True)) for first, *rest in rows[1:]}


def charts(page):
    """{title: {legend: colour}}"""
    found = {}
    for figure in map(ET.fromstring, re.findall(r"<figure>.*?</figure>", page, re.DOTALL)):
        title = next(text.text for text in figure.iter("text") if text.get("class") == "title")
        spans = list(figure.find("figcaption"))
        names = ["".join(text for text in (span.find("svg").tail,) if text).strip() for span in spans]
        marks = [next(mark for mark in span.find("svg")) for span in spans]
        found[title] = {name: mark.get("stroke") or mark.get("fill") for name, mark in zip(names, marks, strict=True)}
    return found


class TestTellingApart:
    def test_runs_are_called_by_what_differs_between_them(self, two, tmp_path):
        page = written(tmp_path, *two)
        assert re.search("<h1>(.*?)</h1>", page)[1] == "digits: kd | kd+at"
        overview = table(page, "Runs")
        assert list(overview) == ["kd", "kd+at"]
        assert overview["kd"]["begun"] == "2026-11-26 04:05" and overview["kd+at"]["on"] == "CPU, elsewhere"
        assert overview["kd"]["teacher"] == "resnet8 (sftn)" and overview["kd"]["folder"] == str(two[0])
        assert "<code>python -m fastkd.train</code>" in page

    def test_the_settings_that_differ_stand_by_themselves(self, two, tmp_path):
        apart = table(written(tmp_path, *two), "Settings")
        assert apart["method"] == {"kd": "kd", "kd+at": "kd+at"} and apart["at.weight"] == {"kd": "", "kd+at": "1000"}
        assert "epochs" not in apart and apart["env.host"] == {"kd": "machine", "kd+at": "elsewhere"}

    def test_a_run_has_one_colour_everywhere(self, two, tmp_path):
        drawn = charts(written(tmp_path, *two))
        for label in ("kd", "kd+at"):
            colours = {
                shade
                for title, lines in drawn.items()
                if "last epoch" not in title
                for name, shade in lines.items()
                if name.split(",")[0] == label
            }
            assert len(colours) == 1, (label, colours)
        assert drawn["student: loss, all terms"]["kd"] != drawn["student: loss, all terms"]["kd+at"]

    def test_the_same_run_twice_is_told_apart_by_its_folder(self, two, tmp_path):
        page = written(tmp_path, two[0], two[0])
        assert "No setting differs." in page and str(two[0]) in page

    def test_a_single_run_says_what_it_is(self, two, tmp_path):
        page = written(tmp_path, two[0])
        assert "<h1>digits: resnet8 from resnet8 (sftn) by kd</h1>" in page
        drawn = charts(page)
        colours = {name: shade for lines in drawn.values() for name, shade in lines.items() if name in HITS}
        assert len(set(colours.values())) == 3
        assert all(
            colours[name] == shade for lines in drawn.values() for name, shade in lines.items() if name in colours
        )


class TestCurves:
    def test_student_and_control_share_a_chart_and_seeds_are_a_mean_with_a_band(self, two, tmp_path):
        page = written(tmp_path, *two)
        drawn = charts(page)["student and control: test error, %"]
        assert list(drawn) == ["kd", "kd, control", "kd+at", "kd+at, control"]
        figure = next(
            found for found in re.findall(r"<figure>.*?</figure>", page, re.DOTALL) if "control: test" in found
        )
        assert figure.count("<polyline") == 4 and figure.count('class="band"') == 4
        assert "<b>13</b>" in figure, "the mean of 15 and 11, at the end of the line"

    def test_every_term_of_every_stage_is_drawn(self, two, tmp_path):
        titles = list(charts(written(tmp_path, *two)))
        for stage in HITS:
            own = "kd." if stage == "student" else ""  # of the one, whose log has no name before its terms, too
            for name in ("loss, all terms", f"{own}ce", f"{own}kl", "learning rate"):
                assert f"{stage}: {name}" in titles

    def test_a_validation_set_is_called_one(self, two, tmp_path):
        for seed in ("seed-0", "seed-1"):
            log, file = two[0] / seed / "metrics.jsonl", two[0] / seed / "results.json"
            records = [json.loads(line) | {"watched": "validation"} for line in log.read_text().splitlines()]
            log.write_text("".join(f"{json.dumps(record)}\n" for record in records))
            results = json.loads(file.read_text())
            for stage in results["stages"].values():
                stage["validation"] = stage["test"]
            file.write_text(json.dumps(results))
        page = written(tmp_path, two[0])
        assert "student and control: validation error, %" in charts(page) and "test error" not in page
        assert "best epoch, validation" in page and "best epochs are of the validation images" in page
        assert "Top-1 on the test set" in page, "that is what a result is"

    def test_a_run_without_an_epoch_has_no_curves(self, tmp_path):
        folder = tmp_path / "begun"
        folder.mkdir()
        (folder / "recipe.json").write_text(json.dumps(recipe_to_plain(tiny_recipe())))
        page = written(tmp_path, folder)
        assert "No epoch is finished yet." in page and "No stage is finished yet." in page


class TestComparison:
    def test_a_row_a_student_beside_control_teacher_and_the_first(self, two, tmp_path):
        found = table(written(tmp_path, *two), "Comparison")
        assert found["kd"]["student"] == "87.00 ± 2.83" and found["kd"]["student − control"] == "+15.00"
        assert found["kd"]["student − kd"] == "" and found["kd+at"]["student − kd"] == "≈ +1.00"
        assert found["kd"]["teacher"] == "91.00 ± 1.41" and found["kd+at"]["CKA"] == "0.750 ± 0.000"

    def test_of_single_seeds_no_difference_is_called_noise(self, tmp_path):
        hits = {"teacher": [90], "student": [85], "control": [84]}
        runs = [write_run(tmp_path / method, with_method(method, seeds=1), hits) for method in ("kd", "kd+at")]
        page = written(tmp_path, *runs)
        assert "≈" not in page and "how much of it is chance is not known" in page and "one seed" in page
        assert table(page, "Comparison")["kd"]["student − control"] == "+1.00"

    def test_a_run_without_a_control_has_none_to_compare_with(self, two, tmp_path):
        alone = write_run(
            tmp_path / "alone", with_method("kd+sp", stages=with_method("kd+sp").stages[:2]), {"student": [80, 82]}
        )
        found = table(written(tmp_path, two[0], alone), "Comparison")
        assert found["kd"]["control"] and found["kd+sp"]["control"] == found["kd+sp"]["student − control"] == ""


class Tags(HTMLParser):
    """Every tag and attribute of a page, as a browser reads it."""

    def __init__(self, page):
        super().__init__()
        self.found = set()
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found |= {tag, *(name for name, _ in attributes)}


HOSTILE = ("<script>x</script>", '"><img src=x onerror=x>', "</style><b>", "{title}{body}")


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_stands_in_a_run_is_text(text, tmp_path):
    """In its recipe, its results, its log, its environment, its folder's name."""
    recipe = with_method("kd", deviations=(text,), data=f"digits:{text}")
    teacher, student, control = recipe.stages
    recipe = replace(recipe, stages=(teacher, replace(student, network=text), control))
    run = write_run(tmp_path / text.replace("/", "_"), recipe, HITS, host=text, command=text, odd={text: text})
    with open(run / "seed-0" / "metrics.jsonl", "a") as file:
        for stage in ("student", text):
            file.write(
                json.dumps(
                    {"stage": stage, "epoch": 9, "train": {text: 1.0}, "test": {text: {"top1": 1, "samples": 2}}}
                )
            )
            file.write("\n")
    page = written(tmp_path, run, write_run(tmp_path / "other", with_method("kd+at"), HITS))
    tags = Tags(page).found
    assert not tags & {"script", "img", "b onerror", "onerror", "src", "href"} and page.count("<style>") == 1
    assert page.count("</style>") == 1 and page.count("<html") == 1


def test_a_page_needs_nothing_from_anywhere(two, tmp_path):
    page = written(tmp_path, *two)
    for outside in ("http://", "https://", "<script", "src=", "@import", "url("):
        assert outside not in page
    assert len(page) < 100_000


def test_a_report_imports_nothing_that_a_run_names(two, tmp_path, monkeypatch):
    """Not even what a run was trained with: the report shows it, and that is all."""
    (tmp_path / "evilmod.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    plain = json.loads((two[0] / "recipe.json").read_text())
    plain["stages"][1] |= {"method": "kd+evilmod:X", "settings": {"kd": {}, "evilmod:X": {"weight": 3.0}}}
    (two[0] / "recipe.json").write_text(json.dumps(plain))
    page = written(tmp_path, *two)
    assert "evilmod" not in sys.modules and "kd+x" in page


def test_the_command_writes_beside_the_first_run_or_where_it_is_told(finished, tmp_path, capsys):
    """Of runs that were trained."""
    out = tmp_path / "both.html"
    assert report.main([str(finished), str(finished), "--out", str(out)]) == 0
    assert report.main([str(finished)]) == 0
    assert capsys.readouterr().out.split() == [str(out), str(finished / "report.html")]
    titles = list(charts((finished / "report.html").read_text()))
    assert "student and control: test error, %" in titles and "teacher: branch_ce" in titles
