"""Passages of real prose: whole documents are held out, and questions point to one sentence."""

import random

from prose import Library, asked_passage, content, library, python_documents, unformatted

DRAWN = 60


def test_documents_are_for_training_or_for_the_evaluation() -> None:
    trained = {name for name, _ in python_documents(held_out=False)}
    held_out = {name for name, _ in python_documents(held_out=True)}
    assert trained
    assert held_out
    assert not trained & held_out


def test_the_held_out_documents_suffice_for_the_evaluation() -> None:
    assert library(held_out=True).sentences > 800


def test_a_question_shares_with_its_sentence_a_word_that_no_other_has() -> None:
    r, held_out = random.Random(1), library(held_out=True)
    for _ in range(DRAWN):
        passage, _, gold = asked_passage(r, held_out, held_out=True)
        assert gold in passage.sentences
        assert 4 <= len(passage.sentences) <= 8


def test_most_questions_repeat_words_of_their_sentence() -> None:
    r, held_out = random.Random(2), library(held_out=True)
    drawn = [asked_passage(r, held_out, held_out=True) for _ in range(DRAWN)]
    shared = [bool(set(content(asked)) & set(content(gold))) for _, asked, gold in drawn]
    assert sum(shared) > 0.9 * DRAWN


def test_sentences_that_are_all_alike_are_passed_over() -> None:
    alike = ["Counters count words here."] * 4
    other = [
        f"Counter {name} counts only {name} items." for name in ("alpha", "beta", "gamma", "delta")
    ]
    r = random.Random(3)
    passage, _, _ = asked_passage(r, Library([[alike, other]]), held_out=False)
    assert passage.sentences == tuple(other)


def test_a_manual_page_loses_its_markup() -> None:
    page = "\n".join(
        [
            ".SH DESCRIPTION",
            "The",
            ".BR open ()",
            r"call opens \fIpathname\fP.",
            ".nf",
            "    code();",
            ".fi",
        ]
    )
    assert unformatted(page).split() == ["The", "open()", "call", "opens", "pathname."]
