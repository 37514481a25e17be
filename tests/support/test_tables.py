"""One table of rows, as text, Markdown and for a template."""

from support.tables import markdown_table, number_columns, text_table

ROWS = [
    {"model": "hgru", "images": "1,600", "change": "−0.5 (−1.1 to +0.2)", "p": "< 0.0001"},
    {"model": "a|b", "images": "–", "change": "+12", "p": "0.5"},
]


def test_columns_of_numbers_are_those_whose_cells_all_are():
    assert number_columns(ROWS) == [False, True, True, True]
    assert number_columns([{"images": 3}, {"images": "not reached"}]) == [False]


def test_text_is_aligned_and_keeps_every_cell():
    lines = text_table(ROWS).splitlines()
    assert [line.split()[0] for line in lines] == ["model", "hgru", "a|b"]
    end = lines[0].index("images") + len("images")
    assert lines[1].index("1,600") + 5 == lines[2].index("–") + 1 == end


def test_a_bar_in_a_markdown_cell_does_not_end_it():
    header, rule, _, last = markdown_table(ROWS).splitlines()
    assert header == "| model | images | change | p |"
    assert [cell.strip() for cell in rule.strip("|").split("|")] == ["---", *["---:"] * 3]
    assert last.replace("\\|", "/") == "| a/b | – | +12 | 0.5 |"
