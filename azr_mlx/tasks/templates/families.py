"""The frames of programs: each family is one structure whose parts the grammar fills."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from azr_mlx.tasks.templates.grammar import LETTERS, MODULI, Pen


@dataclass(frozen=True, slots=True)
class Sketch:
    """A program's parameters (name to input type), its source, and what it is about."""

    params: dict[str, str]
    lines: list[str]
    about: str


def _indent(lines: Sequence[str], by: int = 1) -> list[str]:
    return ["    " * by + line for line in lines]


def _def(params: dict[str, str], body: Sequence[str], name: str = "f") -> list[str]:
    return [f"def {name}({', '.join(params)}):", *_indent(body)]


def _ints(pen: Pen, most: int = 3) -> dict[str, str]:
    count = pen.scale(1, most)
    return {
        name: "int"
        for name in pen.pick([("a", "b", "c"), ("x", "y", "z"), ("n", "k", "m")])[:count]
    }


def _arithmetic(pen: Pen) -> Sketch:
    params = _ints(pen)
    names, body = list(params), list[str]()
    for i in range(pen.scale(0, 4)):
        new = f"t{i}"
        if pen.chance(0.3 + 0.3 * pen.d):
            body += [f"if {pen.test(names, 1)}:", f"    {new} = {pen.num(names, pen.depth)}"]
            if pen.chance(pen.d / 2):
                body += [f"elif {pen.test(names, 0)}:", f"    {new} = {pen.num(names, 1)}"]
            body += ["else:", f"    {new} = {pen.num(names, 1)}"]
        else:
            body.append(f"{new} = {pen.num(names, pen.depth)}")
        names.append(new)
    last = [names[-1], *params] if len(names) > 2 else names[-1:]
    result = pen.num(last, pen.depth)
    if pen.chance(0.3):
        result = f"({result}, {pen.num(names, 1)})"
    return Sketch(params, _def(params, [*body, f"return {result}"]), "integer arithmetic")


def _lists(pen: Pen) -> Sketch:
    params = {"xs": "nums", **({"k": "small"} if pen.chance(pen.d) else {})}
    extra = [p for p in params if p == "k"]
    body, seq = list[str](), "xs"
    for i in range(pen.scale(0, 3)):
        body.append(f"v{i} = {pen.nums(seq, extra, 1)}")
        seq = f"v{i}"
    value = pen.nums(seq, extra, pen.scale(1, 2))
    if pen.chance(0.4):
        value = pen.fold(value, extra)
    elif pen.chance(0.3):
        value = f"({value}, {pen.fold('xs', extra)})"
    return Sketch(params, _def(params, [*body, f"return {value}"]), "a list of integers")


def _text(pen: Pen) -> Sketch:
    params = {"s": "text", **({"n": "small"} if pen.chance(pen.d) else {})}
    body, name = list[str](), "s"
    for i in range(pen.scale(0, 3)):
        if "n" in params and pen.chance(0.3):
            body += [f"if len({name}) > n:", f"    t{i} = {pen.text(name, 1)}"]
            body += ["else:", f"    t{i} = {pen.text(name, 1)}"]
        else:
            body.append(f"t{i} = {pen.text(name, 1)}")
        name = f"t{i}"
    value = pen.text(name, pen.scale(1, 2))
    if "n" in params:
        value = pen.pick([f"({value}, len({name}) + n)", f"{value}[n:] + s", f"{value} + str(n)"])
    elif pen.chance(0.3):
        value = pen.pick([f"({value}, len({name}))", f"{value}.count(s[0]) + len(s) * 10"])
    return Sketch(params, _def(params, [*body, f"return {value}"]), "a string")


def _branches(pen: Pen, names: Sequence[str], targets: Sequence[str], count: int) -> list[str]:
    """An if/elif/else chain whose arms move the targets by bounded amounts."""
    lines = list[str]()
    for i in range(count):
        lines += [f"{'elif' if i else 'if'} {pen.test(names, 1)}:"]
        lines += _indent([_move(pen, pen.pick(targets), names)])
    if count and pen.chance(0.6):
        lines += ["else:", *_indent([_move(pen, pen.pick(targets), names)])]
    return lines or [_move(pen, pen.pick(targets), names)]


def _move(pen: Pen, target: str, names: Sequence[str]) -> str:
    """A statement that changes an accumulator and keeps it small whatever the number of turns."""
    value = pen.num(names, pen.scale(0, 2))
    modulus = pen.pick(MODULI)
    return pen.pick(
        [
            f"{target} += {value}",
            f"{target} -= {value}",
            f"{target} = ({target} * {pen.between(2, 5)} + {value}) % {modulus}",
            f"{target} = max({target}, {value})",
            f"{target} = {value} - {target}",
        ]
    )


def _loop(pen: Pen) -> Sketch:
    params = {"xs": "nums", **({"k": "small"} if pen.chance(pen.d) else {})}
    accs = ["total", "best", "last"][: pen.scale(1, 3)]
    names = ["x", *[p for p in params if p == "k"], *([accs[-1]] if pen.chance(0.3) else [])]
    head = "for x in xs:"
    if pen.chance(0.4):
        head, names = "for i, x in enumerate(xs):", [*names, "i"]
    inner = _branches(pen, [n for n in names if n not in accs], accs, pen.scale(0, 3))
    inner.append(f"{accs[0]} += {pen.num(['x'], 1)}")
    if pen.chance(pen.d / 3):
        inner = [f"if {pen.test(['x'], 0)}:", f"    {pen.pick(['continue', 'break'])}", *inner]
    starts = [f"{a} = {pen.between(0, 3)}" for a in accs]
    tail = [f"total += {pen.fold('xs', [])}"]
    value = ", ".join(accs) if pen.chance(0.5) else " + ".join(accs)
    body = [*starts, head, *_indent(inner), *tail, f"return {value}"]
    return Sketch(params, _def(params, body), "a loop over a list with running values")


def _counts(pen: Pen) -> Sketch:
    over = pen.pick(["text", "words", "nums"])
    key = {
        "text": pen.pick(["c", "c.lower()", "c in 'aeiou'", "s.index(c)"]),
        "words": pen.pick(["len(c)", "c[0]", "c[-1:]", "c[::-1]"]),
        "nums": pen.num(["c"], 1),
    }[over]
    amount = {"text": "s.count(c)", "words": "len(c)", "nums": pen.num(["c"], 1)}[over]
    step = pen.pick(
        [
            f"d[{key}] = d.get({key}, 0) + {pen.pick(['1', amount])}",
            f"d.setdefault({key}, []).append({pen.pick(['c', amount])})",
        ]
    )
    grouped = "setdefault" in step
    inner = [step]
    if pen.chance(0.3 + pen.d / 3):
        guard = {"text": "c != 'e'", "words": "len(c) > 1", "nums": pen.test(["c"], 1)}[over]
        inner = [f"if {guard}:", *_indent(inner)]
        if pen.chance(pen.d):
            inner += ["else:", f"    other += {pen.pick(['1', amount])}"]
    size = "len(d[k])" if grouped else "d[k]"
    value = pen.pick(
        [
            "d",
            "sorted(d.items())",
            f"{{k: {size} for k in d}}",
            f"[k for k in d if {size} > 0]",
            f"sorted(d, key=lambda k: ({size}, k))",
            f"(len(d), sum({size} for k in d) + len(s))",
            f"[({size}, k) for k in sorted(d)]",
        ]
    )
    tail = f"return ({value}, other + len(s))" if pen.chance(0.5) else f"return {value}"
    body = ["d = {}", "other = 0", "for c in s:", *_indent(inner), tail]
    if "other" not in tail and not any("other" in line for line in inner):
        body.remove("other = 0")
    return Sketch({"s": over}, _def({"s": over}, body), "counting or grouping in a dictionary")


def _table(pen: Pen) -> Sketch:
    params = {"d": "table", **({"k": "small"} if pen.chance(pen.d) else {})}
    names = ["v", *[p for p in params if p == "k"]]
    body, source = list[str](), "d"
    for i in range(pen.scale(0, 2)):
        guard = f" if {pen.test(names, 1)}" if pen.chance(0.5) else ""
        key = pen.pick(["w", "w[::-1]", "w.upper()", "w + str(v)"])
        entry = f"{key}: {pen.num(names, pen.scale(1, 2))}"
        body.append(f"e{i} = {{{entry} for w, v in {source}.items(){guard}}}")
        source = f"e{i}"
    value = pen.pick(
        [
            f"sorted({source}, key=lambda w: ({source}[w], w))",
            f"{{w: {pen.num(names, 1)} for w, v in {source}.items()}}",
            f"sum({pen.num(names, 1)} for w, v in {source}.items()) + sum(d.values())",
            f"[w * (v % 3) for w, v in {source}.items()] + list(d)[:1]",
            f"sorted((v, w) for w, v in {source}.items()) + [len(d)]",
            f"(len({source}), max(d.values()), min(d))",
        ]
    )
    if pen.chance(0.4):
        value = f"({value}, {pen.num(['sum(d.values())'], 1)})"
    return Sketch(params, _def(params, [*body, f"return {value}"]), "a dictionary of numbers")


def _digits(pen: Pen) -> Sketch:
    params = {"n": "nat", **({"k": "small"} if pen.chance(pen.d) else {})}
    base = pen.pick([2, 3, 5, 7, 10])
    accs = ["r", "s"][: pen.scale(1, 2)]
    names = ["q", *[p for p in params if p == "k"]]
    starts = [f"{a} = {pen.between(0, 2)}" for a in accs]
    chain = _branches(pen, names, accs, pen.scale(0, 2))
    if pen.chance(0.5):
        head, step = "while m > 0:", [f"q = m % {base}", *chain, f"m //= {base}"]
    else:
        grow = f"q * {pen.between(2, 3)} + {pen.between(1, 5)}"
        head = f"while m > 1 and turns < {pen.between(4, 12)}:"
        step = [
            "q = m",
            "turns += 1",
            *chain,
            f"m = q // 2 if q % 2 == 0 else ({grow}) % {pen.pick(MODULI)}",
        ]
        starts.append("turns = 0")
        accs = [*accs, "turns"]
    value = f"{pen.num(['n'], 1)} + {' + '.join(accs)}"
    if pen.chance(0.4):
        value = ", ".join([*accs, "n % 10"])
    body = [*starts, "m = n", head, *_indent(step), f"return {value}"]
    return Sketch(params, _def(params, body), "a while loop on a number")


def _machine(pen: Pen) -> Sketch:
    over = pen.pick(["text", "nums"])
    states = ["start", "open", "closed", "done"][: pen.scale(2, 4)]
    symbols = {"text": _text_tests(pen), "nums": [pen.test(["c"], 0) for _ in range(4)]}[over]
    lines = list[str]()
    for i, state in enumerate(states):
        lines.append(f"{'elif' if i else 'if'} state == '{state}':")
        for j in range(pen.scale(1, 2)):
            effect = _emit(pen, over) if pen.chance(0.6) else "pass"
            target = states[1] if (i, j) == (0, 0) else pen.pick(states)
            move = [f"state = '{target}'", *([] if effect == "pass" else [effect])]
            lines += _indent([f"{'elif' if j else 'if'} {pen.pick(symbols)}:", *_indent(move)])
        if pen.chance(0.5):
            lines += _indent(["else:", *_indent([_emit(pen, over)])])
    value = pen.pick(
        ["(state, len(s), out[::-1])", "(out, len(s), state)", "out + [len(s), state]"]
    )
    body = ["state = 'start'", "out = []", "for c in s:", *_indent(lines), f"return {value}"]
    return Sketch({"s": over}, _def({"s": over}, body), "a state machine that reads its input once")


def _text_tests(pen: Pen) -> list[str]:
    a, b = pen.pick(LETTERS), pen.pick(LETTERS)
    return [
        f"c == '{a}'",
        "c in 'aeiou'",
        f"c > '{b}'",
        f"c in '{a}{b}t' or c == s[0]",
        "c != s[-1]",
    ]


def _emit(pen: Pen, over: str) -> str:
    if over == "text":
        return pen.pick(
            ["out.append(c)", "out.append(c.upper())", "out.append(s.index(c))", "out.insert(0, c)"]
        )
    return pen.pick(
        [f"out.append({pen.num(['c'], 1)})", "out.append(len(out))", "out.insert(0, c)"]
    )


def _recursion(pen: Pen) -> Sketch:
    return pen.pick([_down_a_list, _down_a_number, _into_a_nest, _down_two_numbers])(pen)


def _down_a_list(pen: Pen) -> Sketch:
    arms = list[str]()
    for _ in range(pen.scale(0, 2)):
        rest = pen.pick(["xs[1:]", "xs[2:]"])
        arms.append(f"if {pen.test(['xs[0]'], 1)}:")
        arms.append(f"    return {pen.num(['xs[0]'], pen.depth)} + f({rest})")
    head = ["if not xs:", f"    return {pen.between(0, 5)}"]
    last = f"return {pen.num(['xs[0]', 'len(xs)'], pen.depth)} {pen.pick('+-')} f(xs[1:])"
    params = {"xs": "nums"}
    return Sketch(params, _def(params, [*head, *arms, last]), "recursion on a list")


def _down_a_number(pen: Pen) -> Sketch:
    calls = pen.pick(
        ["f(n - 1)", "f(n - 2)", "f(n - 1) + f(n - 3)", "f(n - 1) - f(n - 2)", "f(n // 2)"]
    )
    arms = [f"if {pen.test(['n'], 1)}:", f"    return f(n - 1) + {pen.num(['n'], pen.depth)}"]
    last = f"return {calls} + {pen.num(['n'], pen.depth)}"
    if pen.chance(0.3):
        last = f"return ({calls}) * {pen.between(2, 4)} % {pen.pick(MODULI)} + n"
    head = [f"if n <= {pen.between(0, 2)}:", f"    return {pen.num(['n'], 1)}"]
    params = {"n": "tiny"}
    body = [*head, *(arms if pen.chance(0.6) else []), last]
    return Sketch(params, _def(params, body), "recursion on a number")


def _into_a_nest(pen: Pen) -> Sketch:
    fold = pen.pick(
        [
            "sum(f(x) for x in t)",
            "sum(f(x) for x in t) + len(t)",
            "len(t) - sum(f(x) for x in t)",
            "max([f(x) for x in t]) + sum(f(x) for x in t)",
        ]
    )
    guard = [
        f"if len(t) > {pen.between(1, 2)}:",
        f"    return f(t[1:]) + {pen.num(['f(t[0])'], 1)}",
    ]
    leaf = ["if isinstance(t, int):", f"    return {pen.num(['t'], pen.depth)}"]
    params = {"t": "nested"}
    body = [*leaf, *(guard if pen.chance(pen.d) else []), f"return {fold}"]
    return Sketch(params, _def(params, body), "recursion on a nested list")


def _down_two_numbers(pen: Pen) -> Sketch:
    step = pen.pick(
        ["f(a // 3, b - 1)", "f(a // 2, b - 1)", "f(a % 7, b - 1)", "f(abs(a - b), b - 1)"]
    )
    arm = [
        f"if {pen.test(['a', 'b'], 1)}:",
        f"    return f(a // 2, b - 1) + {pen.num(['a', 'b'], 1)}",
    ]
    head = ["if b <= 0 or a <= 0:", f"    return {pen.num(['a', 'b'], 1)} + a"]
    last = f"return {step} + {pen.num(['a', 'b'], pen.depth)}"
    params = {"a": "nat", "b": "tiny"}
    body = [*head, *(arm if pen.chance(0.6) else []), last]
    return Sketch(params, _def(params, body), "recursion with two arguments")


def _closure(pen: Pen) -> Sketch:
    params = {"xs": "nums", "k": "small"}
    inner_body = (
        [f"if {pen.test(['x', 'k'], 1)}:", f"    return {pen.num(['x', 'k'], pen.depth)}"]
        if pen.chance(0.7)
        else []
    )
    inner_body.append(f"return {pen.num(['x', 'k'], pen.depth)}")
    inner = _def({"x": ""}, inner_body, "step")
    if pen.chance(0.5):
        inner = ["seen = []", *_def({"x": ""}, ["seen.append(x)", *inner_body], "step")]
        extra = ", len(seen)"
    else:
        extra = ""
    use = pen.pick(
        [
            "[step(x) for x in xs]",
            "list(map(step, xs))",
            "sum(step(x) for x in xs)",
            "[step(step(x)) for x in xs]",
            "sorted(xs, key=lambda x: (step(x), x))",
            "[x for x in xs if step(x) > k] + [step(k)]",
            "step(sum(xs))",
        ]
    )
    value = f"return ({use}{extra}, {pen.fold('xs', [])})" if pen.chance(0.5) else f"r = {use}"
    tail = [value] if value.startswith("return") else [value, f"return (r{extra}, sum(xs))"]
    return Sketch(params, _def(params, [*inner, *tail]), "an inner function over a list")


def _class(pen: Pen) -> Sketch:
    fields = ["total", "count", "peak"][: pen.scale(1, 3)]
    init = _def(
        {"self": "", "k": ""},
        ["self.k = k", *[f"self.{f} = {pen.between(0, 4)}" for f in fields]],
        "__init__",
    )
    own = [f"self.{f}" for f in fields]
    chain = _branches(pen, ["x", "self.k"], own, pen.scale(0, 2))
    feed = _def(
        {"self": "", "x": ""}, [*chain, f"self.total += {pen.num(['x', 'self.k'], 1)}"], "feed"
    )
    undo = _def({"self": "", "x": ""}, [_move(pen, pen.pick(own), ["x", "self.k"])], "drop")
    value = _def({"self": ""}, [f"return {pen.num(own, pen.scale(1, 2))}"], "value")
    name = pen.pick(["Box", "Meter", "Account", "Counter"])
    turn = (
        [f"if {pen.test(['x'], 1)}:", "    m.drop(x)", "else:", "    m.feed(x)"]
        if pen.chance(0.6)
        else ["m.feed(x)"]
    )
    if pen.chance(0.5):
        turn.append("out.append(m.value())")
    result = pen.pick(["m.value() + m.total", "(m.total, m.value())", "[m.value(), sum(xs)]"])
    collected = "out.append(m.value())" in turn
    body = [f"m = {name}(k)", *(["out = []"] if collected else []), "for x in xs:", *_indent(turn)]
    body.append(f"return (out, {result})" if collected else f"return {result}")
    methods = [init, feed, value, *([undo] if any("drop" in line for line in turn) else [])]
    lines = [f"class {name}:", *_indent([line for method in methods for line in method])]
    return Sketch(
        {"xs": "nums", "k": "small"}, [*lines, *_def({"xs": "", "k": ""}, body)], "a small class"
    )


def _grid(pen: Pen) -> Sketch:
    params, cells = {"g": "grid"}, ["x", "i", "j"]
    body, source = list[str](), "g"
    for i in range(pen.scale(1, 2)):
        cell = pen.num(cells, pen.depth)
        step = pen.pick(
            [
                f"[row[::-1] for row in {source}]",
                f"[list(c) for c in zip(*{source})]",
                f"[[{cell} for j, x in enumerate(row)] for i, row in enumerate({source})]",
                f"sorted({source}, key=lambda row: (sum(row), row))",
                f"[row for row in {source} if sum(row) % 2 == 0] + [{source}[0]]",
            ]
        )
        body.append(f"h{i} = {step}")
        source = f"h{i}"
    if pen.chance(0.5):
        test = f" if {pen.test(cells, 1)}" if pen.chance(0.6) else ""
        body += ["t = 0", f"for i, row in enumerate({source}):", "    for j, x in enumerate(row):"]
        chain = _branches(pen, cells, ["t"], pen.scale(0, 2))
        body += _indent([*chain, f"t += {pen.num(['x'], 1)}"], 2)
        value = pen.pick(
            [
                f"(t, {source}[-1])",
                f"t + sum(x for i, row in enumerate(g) for j, x in enumerate(row){test})",
            ]
        )
    else:
        value = pen.pick(
            [
                source,
                f"[sum(row) for row in {source}]",
                f"({source}[0], sum(map(sum, g)))",
                f"[max(row) - min(row) for row in {source}] + g[0]",
            ]
        )
    return Sketch(params, _def(params, [*body, f"return {value}"]), "a grid of integers")


def _stack(pen: Pen) -> Sketch:
    table = {
        "add": "b + a",
        "sub": "b - a",
        "swap": "a - b",
        "mix": f"(b * {pen.between(2, 4)} + a) % {pen.pick(MODULI)}",
        "top": "max(a, b)",
        "low": "min(a, b)",
    }
    ops = [str(o) for o in pen.rng.permutation(list(table))[: pen.scale(2, 5)]]
    lines = ["if isinstance(op, int):", f"    stack.append({pen.num(['op'], pen.scale(0, 2))})"]
    lines += [
        f"elif len(stack) < {pen.between(2, 3)}:",
        f"    {pen.pick(['continue', 'skipped += 1', 'stack.append(len(stack))'])}",
    ]
    lines += ["else:", "    a = stack.pop()", "    b = stack.pop()"]
    arms = list[str]()
    for i, op in enumerate(ops[:-1]):
        arms += [f"{'elif' if i else 'if'} op == '{op}':", f"    stack.append({table[op]})"]
        if pen.chance(pen.d / 3):
            arms.append(f"    skipped += {pen.num(['a', 'b'], 1)}")
    arms += ["else:", f"    stack.append({table[ops[-1]]})"]
    value = pen.pick(
        ["(stack, skipped)", "sum(stack) + skipped", "stack[::-1] + [len(ops), skipped]"]
    )
    body = [
        "stack = []",
        "skipped = 0",
        "for op in ops:",
        *_indent(lines),
        *_indent(arms, 2),
        f"return {value}",
    ]
    return Sketch({"ops": "ops:" + ",".join(ops)}, _def({"ops": ""}, body), "a stack machine")


def _composed(pen: Pen) -> Sketch:
    helpers, names = list[str](), ["g", "h", "p"][: pen.scale(1, 3)]
    for i, name in enumerate(names):
        known = ["x", *[f"{other}(x)" for other in names[:i]]]
        body = (
            [f"if {pen.test(['x'], 1)}:", f"    return {pen.num(known, pen.depth)}"]
            if pen.chance(0.6)
            else []
        )
        helpers += _def({"x": ""}, [*body, f"return {pen.num(known, pen.depth)}"], name)
    last = names[-1]
    if pen.chance(0.5):
        params = _ints(pen, 2)
        values = [f"{n}({p})" for n in names for p in params]
        main = [
            f"t = {pen.num(values, pen.depth)}",
            f"return ({pen.num(['t', *params], 1)}, {last}({next(iter(params))}))",
        ]
    else:
        params = {"xs": "nums"}
        first = pen.nums("xs", [], 1)
        main = [
            f"ys = [{last}(x) for x in {first}]",
            f"return {pen.pick(['ys', 'sorted(ys)', '(sum(ys), sum(xs))', 'ys[::-1] + xs'])}",
        ]
    return Sketch(params, [*helpers, *_def(params, main)], "several functions that call each other")


def _words(pen: Pen) -> Sketch:
    params = {"ws": "words", **({"k": "small"} if pen.chance(pen.d) else {})}
    body, source = list[str](), "ws"
    for i in range(pen.scale(0, 2)):
        guard = (
            f" if {pen.test(['len(w)', *[p for p in params if p == 'k']], 0)}"
            if pen.chance(0.5)
            else ""
        )
        body.append(f"v{i} = [{pen.text('w', pen.scale(1, 2))} for w in {source}{guard}]")
        source = f"v{i}"
    value = pen.pick(
        [
            f"'{pen.pick('-_ ')}'.join({source}) + ws[0]",
            f"sorted({source} + ws[:1], key=lambda w: (len(w), w))",
            f"[len(w) for w in {source}] + ws[:1]",
            f"{{w: {pen.num(['len(w)'], 1)} for w in {source} + ws}}",
            f"[{pen.text('w', 1)} for w in {source}] + ws[-1:]",
            f"(''.join(w[0] for w in ws), len({source}))",
        ]
    )
    return Sketch(params, _def(params, [*body, f"return {value}"]), "a list of words")


# Each family with the difficulty from which it is drawn.
FAMILIES: tuple[tuple[float, Callable[[Pen], Sketch]], ...] = (
    (0.0, _arithmetic),
    (0.0, _lists),
    (0.0, _text),
    (0.15, _words),
    (0.2, _loop),
    (0.25, _counts),
    (0.3, _table),
    (0.35, _digits),
    (0.45, _machine),
    (0.4, _recursion),
    (0.4, _closure),
    (0.45, _composed),
    (0.5, _grid),
    (0.6, _class),
    (0.55, _stack),
)
