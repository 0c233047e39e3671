"""What every browser test relies on: a page that does what none of ours may do is caught."""

from __future__ import annotations

import pytest

from tests.browser import TELEPHONE, Visits, serving, width_of

pytestmark = pytest.mark.special


@pytest.mark.parametrize(
    ("does", "caught"),
    [
        ("<img src='http://127.0.0.1:9/x.png'>", "asked another host"),
        ("<script>alert(1)</script>", "dialog: 1"),
        ("<script>throw new Error('lost')</script>", "lost"),
        ("<script>console.error('lost')</script>", "console: lost"),
        ("<meta http-equiv=Content-Security-Policy content=\"script-src 'none'\"><script>1</script>", "violates"),
    ],
)
def test_a_page_that_misbehaves_is_caught(browser, tmp_path, does, caught):
    (tmp_path / "page.html").write_text(f"<!doctype html>{does}", "utf-8")
    visits = Visits(browser)
    with serving(tmp_path) as folder:
        visits(folder.url + "page.html")
        with pytest.raises(AssertionError, match=caught):
            visits.end()


def test_a_page_that_is_too_wide_for_a_telephone_is_seen_to_be(tmp_path, visit):
    head = "<!doctype html><meta name=viewport content='width=device-width'>"
    for wide in (300, 700):
        (tmp_path / f"{wide}.html").write_text(f"{head}<div style='width: {wide}px'>x</div>", "utf-8")
    narrow, broad = (visit((tmp_path / f"{wide}.html").as_uri(), width=TELEPHONE) for wide in (300, 700))
    assert width_of(narrow) == TELEPHONE < 700 <= width_of(broad)
