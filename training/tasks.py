"""The questions the demo model is taught: one small grammar per task, each drawing from the generator it is handed.

A grammar returns a `Question`: what is asked, what is right, and `content`, the part that matters without its wording ("38+47").
The test set is held out by `content`, so asking the same sum in other words cannot leak it. Tasks that are learnt by heart
(capitals, the calendar, times tables) have no `content`: nothing of them is held out, every wording is taught.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from . import facts, stories
from .words import ACCENTED, WORDS

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December")
MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
SHORT_WORDS = tuple(w for w in WORDS if len(w) <= 8)
TALK, FACTS = facts.SWARM + facts.SMALL_TALK, facts.world()


@dataclass(frozen=True, slots=True)
class Question:
    ask: str
    answer: str
    content: str | None = None


def word(rng: Random, longest: int = 8) -> str:
    """A real word, a pronounceable one, or plain letters: half are invented, so that spelling cannot be learnt by heart."""
    draw = rng.random()
    if draw < 0.5:
        return rng.choice(SHORT_WORDS if longest < 9 else WORDS)
    length = rng.randint(3, longest)
    if draw < 0.75:
        return "".join(rng.choice("bcdfghjklmnprstvwz" if (i + length) % 2 else "aeiou") for i in range(length))
    return "".join(rng.choice(ALPHABET) for _ in range(length))


def sort_numbers(rng: Random) -> Question:
    values = [rng.randint(10, 99) for _ in range(rng.randint(3, 5))] if rng.random() < 0.4 else [rng.randint(0, 9) for _ in range(rng.randint(3, 7))]
    listed, ordered = " ".join(map(str, values)), " ".join(map(str, sorted(values)))
    ask = rng.choice(("sort {}", "sort the numbers {}", "put in order: {}", "sort these numbers: {}"))
    return Question(ask.format(listed), ordered, listed)


def sort_letters(rng: Random) -> Question:
    letters = rng.sample(ALPHABET, rng.randint(3, 7))
    listed = " ".join(letters)
    return Question(rng.choice(("sort {}", "sort the letters {}", "put in order: {}")).format(listed), " ".join(sorted(letters)), listed)


def sort_words(rng: Random) -> Question:
    words = rng.sample(WORDS, rng.randint(3, 4))
    listed = " ".join(words)
    return Question(rng.choice(("sort {}", "sort the words {}", "put in order: {}")).format(listed), " ".join(sorted(words)), listed)


def backwards(rng: Random) -> Question:
    w = word(rng)
    return Question(rng.choice(("spell {} backwards", "reverse {}", "write {} backwards", "what is {} backwards")).format(w), w[::-1], w)


def add(rng: Random) -> Question:
    a, b = (rng.randint(0, 99), rng.randint(0, 99)) if rng.random() < 0.15 else (rng.randint(10, 99), rng.randint(10, 99))
    ask = rng.choice(("{} + {}", "what is {} + {}", "{}+{}", "add {} and {}", "what is {} plus {}"))
    return Question(ask.format(a, b), str(a + b), f"{min(a, b)}+{max(a, b)}")


def subtract(rng: Random) -> Question:
    low, high = sorted((rng.randint(0, 99), rng.randint(10, 99)))
    return Question(rng.choice(("{} - {}", "what is {} - {}", "{}-{}", "what is {} minus {}")).format(high, low), str(high - low), f"{high}-{low}")


def multiply(rng: Random) -> Question:
    a, b = rng.randint(0, 12), rng.randint(0, 12)
    return Question(rng.choice(("{} * {}", "what is {} times {}", "{} x {}", "what is {} * {}")).format(a, b), str(a * b))


def larger(rng: Random) -> Question:
    a, b = rng.sample(range(100), 2)
    big = rng.random() < 0.5
    ask = rng.choice(("which is {}, {} or {}", "what is {}: {} or {}"))
    return Question(ask.format("larger" if big else "smaller", a, b), str(max(a, b) if big else min(a, b)), f"{min(a, b)},{max(a, b)}")


def parity(rng: Random) -> Question:
    n = rng.randint(0, 999)
    return Question(rng.choice(("is {} even or odd", "even or odd: {}")).format(n), "odd" if n % 2 else "even", str(n))


def count_up(rng: Random) -> Question:
    start = rng.randint(0, 40)
    stop = start + rng.randint(2, 8)
    return Question(rng.choice(("count from {} to {}", "count {} to {}")).format(start, stop), " ".join(map(str, range(start, stop + 1))), f"{start}-{stop}")


def _around(rng: Random, ring: tuple[str, ...], unit: str, most: int) -> Question:
    i, n, forward = rng.randrange(len(ring)), rng.randint(1, most), rng.random() < 0.6
    where = "after" if forward else "before"
    target = ring[(i + n if forward else i - n) % len(ring)]
    noun = "day" if unit == "day" else "month"
    asks = [f"what {noun} comes {n} {unit}{'s' * (n > 1)} {where} {ring[i]}", f"what {noun} is {n} {unit}{'s' * (n > 1)} {where} {ring[i]}"]
    if n == 1:
        asks = [f"what {noun} comes {where} {ring[i]}", f"which {noun} comes {where} {ring[i]}", *asks]
    return Question(rng.choice(asks), target)


def weekdays(rng: Random) -> Question:
    return _around(rng, DAYS, "day", 10)


def months(rng: Random) -> Question:
    return _around(rng, MONTHS, "month", 6)


def dates(rng: Random) -> Question:
    """The next or previous date of an ordinary year; month ends are drawn more often, they are where it is hard."""
    m = rng.randrange(12)
    last = MONTH_DAYS[m]
    d = rng.choice((1, last, last)) if rng.random() < 0.3 else rng.randint(1, last)
    if rng.random() < 0.6:
        month, day = (m, d + 1) if d < last else ((m + 1) % 12, 1)
        ask = rng.choice(("what date comes after {} {}", "what is the day after {} {}"))
    else:
        month, day = (m, d - 1) if d > 1 else ((m - 1) % 12, MONTH_DAYS[m - 1])
        ask = rng.choice(("what date comes before {} {}", "what is the day before {} {}"))
    return Question(ask.format(MONTHS[m], d), f"{MONTHS[month]} {day}")


def count_letter(rng: Random) -> Question:
    w = word(rng)
    letter = rng.choice(w) if rng.random() < 0.75 else rng.choice(ALPHABET)
    if rng.random() < 0.3:  # words with the same letter three times are rare; make some, or the model never counts past two
        w = "".join(rng.choice((letter, c)) for c in w)
    ask = rng.choice(("how many {} in {}", "how many {} are in {}", "count the letter {} in {}", "how often is {} in {}"))
    return Question(ask.format(letter, w), str(w.count(letter)), f"{letter}:{w}")


def length(rng: Random) -> Question:
    w = word(rng, 9)
    return Question(rng.choice(("how many letters in {}", "how many letters are in {}", "how long is the word {}")).format(w), str(len(w)), w)


def spell(rng: Random) -> Question:
    w = word(rng)
    return Question(rng.choice(("spell {}", "how do you spell {}")).format(w), "-".join(w), w)


def edge_letter(rng: Random) -> Question:
    w, first = word(rng), rng.random() < 0.5
    which = "first" if first else "last"
    ask = rng.choice((f"what is the {which} letter of {w}", f"{which} letter of {w}"))
    return Question(ask, w[0] if first else w[-1], w)


def next_letter(rng: Random) -> Question:
    i, forward = rng.randrange(26), rng.random() < 0.6
    j = i + 1 if forward else i - 1
    if not 0 <= j < 26:
        i, j, forward = 1, 2, True
    ask = rng.choice(("what letter comes {} {}", "which letter is {} {}"))
    return Question(ask.format("after" if forward else "before", ALPHABET[i]), ALPHABET[j])


def repeat(rng: Random) -> Question:
    if rng.random() < 0.35:
        w, n = word(rng), rng.randint(2, 5)
        return Question(rng.choice((f"say {w} {n} times", f"repeat {w} {n} times")), " ".join([w] * n), f"{w}*{n}")
    words = [word(rng) if rng.random() < 0.9 else rng.choice(ACCENTED) for _ in range(rng.randint(1, 5))]
    if rng.random() < 0.2:
        words.insert(rng.randrange(len(words) + 1), str(rng.randint(0, 9999)))
    text = " ".join(words)
    return Question(rng.choice(("repeat: {}", "say: {}", "copy this: {}", "repeat after me: {}")).format(text), text, text)


def capitals(rng: Random) -> Question:
    w = word(rng) if rng.random() < 0.7 else f"{word(rng)} {word(rng)}"
    if rng.random() < 0.75:
        return Question(rng.choice(("write {} in capitals", "write {} in upper case", "shout {}")).format(w), w.upper(), w)
    return Question(rng.choice(("write {} in small letters", "write {} in lower case")).format(w.upper()), w, w)


def fact(rng: Random) -> Question:
    asks, answer = rng.choice(FACTS)
    return Question(rng.choice(asks), answer)


def talk(rng: Random) -> Question:
    asks, answer = rng.choice(TALK)
    return Question(rng.choice(asks), answer)


def say_something(rng: Random) -> Question:
    """An open question: any sentence of the grammar would do, so it is taught but never graded."""
    kind = rng.choice(stories.HEROES)
    return Question(rng.choice((f"write a sentence about {facts.article(kind)}", f"say something about {facts.article(kind)}")), stories.sentence(rng, kind))


def tell_story(rng: Random) -> Question:
    """Open as well; answered by a whole story."""
    if rng.random() < 0.3:
        return Question(rng.choice(("tell me a story", "tell a story")), stories.story(rng))
    kind = rng.choice(stories.HEROES)
    return Question(rng.choice((f"tell me a story about {facts.article(kind)}", f"a story about {facts.article(kind)}")), stories.story(rng, kind))


Grammar = Callable[[Random], Question]

# Task name -> (grammar, base share). Shares say what matters and what is hard; training then moves weight towards what is still wrong.
TASKS: dict[str, tuple[Grammar, float]] = {
    "sort_numbers": (sort_numbers, 4.0), "sort_letters": (sort_letters, 2.0), "sort_words": (sort_words, 4.0),
    "backwards": (backwards, 5.0), "add": (add, 10.0), "subtract": (subtract, 8.0), "multiply": (multiply, 1.5), "larger": (larger, 3.0),
    "parity": (parity, 1.0), "count_up": (count_up, 0.8), "weekdays": (weekdays, 5.0), "months": (months, 3.0), "dates": (dates, 2.0),
    "count_letter": (count_letter, 8.0), "length": (length, 1.5), "spell": (spell, 1.0), "edge_letter": (edge_letter, 0.8),
    "next_letter": (next_letter, 0.5), "repeat": (repeat, 4.0), "capitals": (capitals, 1.5), "fact": (fact, 4.0), "talk": (talk, 1.6),
    "say_something": (say_something, 0.3),
}
OPEN_TASKS = frozenset({"say_something", "tell_story"})
