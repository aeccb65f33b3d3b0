"""What a recipe does in vain, and what it cannot do, as the explorer says it."""

from tests.pages.conftest import preview
from tests.pages.test_explorer import markup, open_page


def test_an_order_that_undoes_a_step_is_said_beside_the_recipe(notes):
    page = open_page(step=["share_weights", "quantize"])
    assert 'class="warnings"' in markup(page) and "share_weights is undone by quantize, because" in markup(page)
    assert not page.error and 'class="warnings"' not in markup(open_page())


def test_a_step_that_changes_nothing_of_this_model_is_said(notes):
    assert "changes nothing, because squeezenet1_1 has no batch norm." in markup(open_page(model=["squeezenet1_1"]))


def test_layers_that_match_nothing_are_a_sentence_and_nothing_is_asked_for(notes):
    page = open_page(step=["magnitude_prune~layers~layr*"])
    assert "layers cannot be &#x27;layr*&#x27;; it takes all, inner, or patterns" in markup(page)
    assert notes.asked == []


def test_an_order_that_cannot_work_is_refused_in_a_sentence(notes):
    assert "factorize cannot follow quantize, because it changes the shapes" in open_page(step=["quantize", "factorize"]).warning[0].value


def test_what_a_preview_could_not_do_is_said_before_the_run_is_done(notes):
    notes.answer = preview()
    notes.answer["metrics"]["notes"] = ["magnitude_prune set every weight of <fc> to zero: what is put out there is the same for every picture."]
    assert "set every weight of &lt;fc&gt; to zero" in markup(open_page(step=["magnitude_prune~sparsity~0.97"]))
