"""Source code is cut where its parts begin."""

import pytest

from murmurate.knowledge.code import Definition, definitions
from murmurate.knowledge.formats import Language


def found(code: str, language: Language) -> list[tuple[int, str]]:
    """Return first line and own signature of each definition."""
    every = definitions(code.splitlines(), language)
    return [(definition.first, definition.signatures[-1]) for definition in every]


def test_methods_stand_below_their_class_and_decorators_with_their_function() -> None:
    code = "import os\n\n@cached\n# why\ndef f():\n    x = 1\n\nclass A:\n    async def b(self):\n"
    assert definitions([*code.splitlines(), "def g(): ..."], Language.PYTHON) == [
        Definition(2, ("def f()",)),
        Definition(7, ("class A",)),
        Definition(8, ("class A", "async def b(self)")),
        Definition(9, ("def g(): ...",)),
    ]


@pytest.mark.parametrize(
    ("language", "code", "firsts"),
    [
        (
            Language.SCRIPT,
            (
                "import x\nexport default class A {\n  m() {}\n}\nexport const f = (a) => {\n}\n"
                "async function g() {\n}\ninterface I {\n}\nlet plain = 3\n"
            ),
            [1, 4, 6, 8],
        ),
        (Language.GO, 'import "fmt"\n\n// F is\nfunc F() {\n}\ntype T struct {\n}\n', [2, 5]),
        (
            Language.RUST,
            "use x;\n#[derive(A)]\npub struct S;\nimpl S {\n    pub(crate) async fn f() {}\n}\n",
            [1, 3, 4],
        ),
        (
            Language.JAVA,
            (
                "package p;\n/** Doc. */\npublic final class A {\n    private static int f(int x)"
                " {\n        return g(x);\n    }\n}\n"
            ),
            [1, 3],
        ),
        (
            Language.C,
            (
                "#include <x.h>\n\nstatic int f(int a)\n{\n    return g(a);\n}\n"
                "struct s {\n    int x;\n};\nint proto(void);\nstd::string A::b() const {\n}\n"
            ),
            [2, 6, 10],
        ),
        (Language.SHELL, "set -e\nbuild() {\n  make\n}\nfunction run {\n}\n", [1, 4]),
        (Language.SECTIONS, "a = 1\n[one]\nb = 2\n# about\n[two]\n", [1, 3]),
        (Language.KEYS, "one:\n  deep: 1\ntwo: 2\n", [0, 2]),
        (Language.LINES, '{\n  "a": 1\n}\n', []),
    ],
)
def test_each_language_has_its_beginnings(language: Language, code: str, firsts: list[int]) -> None:
    assert [first for first, _ in found(code, language)] == firsts


def test_a_line_that_nobody_wrote_by_hand_is_not_looked_into() -> None:
    assert found("def f(): pass" + "x" * 1000, Language.PYTHON) == []
