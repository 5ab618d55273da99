"""Stories and sentences from a template grammar: every name, pronoun and object stays the same from the first line to the last.

A story has a hero, a wish, a trouble, a friend and an end. The pieces are chosen first and the sentences are written around them,
so that a model which learns the pattern has to carry the name and the thing through sixty words, and a reader can see whether it did.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

from .facts import article
from .words import NAMES

ANIMALS = "fox rabbit bear mouse owl frog duck cat dog horse lion goat squirrel turtle wolf penguin hedgehog beaver".split()
PEOPLE = "girl boy baker farmer sailor painter tailor fisher gardener miller".split()
TRAITS = "small brave clever kind curious lazy proud shy quiet happy young old".split()
PLACES = ("in a green forest", "by a wide river", "near the sea", "on a high hill", "in a little village", "at the edge of a meadow", "by a deep lake",
          "in an old mill", "under a tall oak", "in a quiet valley")
THINGS = ("a golden key", "a red kite", "a warm blanket", "a silver bell", "a small boat", "a magic lamp", "a blue lantern", "a basket of apples",
          "a jar of honey", "an old map", "a wooden flute", "a shiny stone")
WEATHER = ("It was a warm day", "It was a cold morning", "The sun was shining", "The rain had just stopped", "Snow lay on the ground", "The wind was strong")
TROUBLES = ("a storm came and hid {it} under the leaves", "a crow flew away with {it}", "{it} fell into the water", "somebody had taken {it}",
            "{name} lost {it} on the way home", "{it} got stuck high in a tree")
HELP = ("They looked for {it} all day", "They made a plan and set out together", "They walked until the moon was up", "They asked every bird on the way",
        "They climbed over the stones, one after the other")
FOUND = ("At last they found {it} behind a big rock", "In the end they saw {it} in the tall grass", "Before night they had {it} back",
         "Soon {it} was safe again")
THANKS = ('"Thank you," said {name}.', '"I could not do it alone," said {name}.', '"You are a true friend," said {name}.', '"We did it!" cried {name}.')
ENDS = ("From that day on, {name} and {friend} were best friends.", "And {name} shared everything with {friend}.", "That night they all slept well.",
        "{Name} never forgot that day.", "And they lived happily ever after.", "They went home and had a big supper.")
DAILY = ("walked along the path", "sang a little song", "sat down to rest", "looked up at the clouds", "swept the floor", "picked some berries")


@dataclass(frozen=True, slots=True)
class Cast:
    """Who and what the story is about, chosen before the first word is written."""

    name: str
    kind: str
    trait: str
    friend: str
    friend_kind: str
    thing: str

    @property
    def bare_thing(self) -> str:
        """The thing once it is known: "a red kite" becomes "the red kite"."""
        return "the " + self.thing.split(" ", 1)[1]


def _cast(rng: Random, kind: str | None = None) -> Cast:
    name, friend = rng.sample(NAMES, 2)
    kinds = ANIMALS if rng.random() < 0.7 else PEOPLE
    chosen = kind or rng.choice(kinds)
    return Cast(name, chosen, rng.choice(TRAITS), friend, rng.choice([other for other in ANIMALS if other != chosen]), rng.choice(THINGS))


def story(rng: Random, kind: str | None = None) -> str:
    """One story of about 60 to 80 words. `kind` fixes the hero ("fox"), for "tell me a story about a fox"."""
    cast = _cast(rng, kind)
    hero, place = f"{cast.trait} {cast.kind}", rng.choice(PLACES)
    words = {"it": cast.bare_thing, "name": cast.name, "Name": cast.name, "friend": cast.friend}
    opening = rng.choice((
        f"Once upon a time there was {article(hero)} named {cast.name} who lived {place}.",
        f"Once upon a time, {article(hero)} named {cast.name} lived {place}.",
        f"Once upon a time {place} there lived {article(hero)}. The {cast.kind} was called {cast.name}.",
    ))
    wish = rng.choice((
        f"{cast.name} had {cast.thing} and loved it very much.",
        f"One day {cast.name} found {cast.thing}.",
        f"More than anything, {cast.name} loved {cast.thing}.",
    ))
    scene = f"{rng.choice(WEATHER)}, and {cast.name} {rng.choice(DAILY)}."
    trouble = f"But then {rng.choice(TROUBLES).format(**words)}."
    helper = rng.choice((
        f"A {cast.friend_kind} named {cast.friend} came by and wanted to help.".replace("A owl", "An owl"),
        f'"Do not cry," said {cast.friend} the {cast.friend_kind}. "I will help you."',
    ))
    search = f"{rng.choice(HELP).format(**words)}. {rng.choice(FOUND).format(**words)}."
    closing = f"{rng.choice(THANKS).format(**words)} {rng.choice(ENDS).format(**words)}"
    middle = [scene] if rng.random() < 0.5 else []
    return " ".join([opening, wish, *middle, trouble, helper, search, closing])


def sentence(rng: Random, kind: str) -> str:
    """One plain sentence about an animal or a person."""
    other = rng.choice([animal for animal in ANIMALS if animal != kind])
    return rng.choice((
        f"The {rng.choice(TRAITS)} {kind} {rng.choice(DAILY)} with {article(other)}.",
        f"{article(kind).capitalize()} lived {rng.choice(PLACES)} and had {rng.choice(THINGS)}.",
        f"{rng.choice(WEATHER)}, and the {kind} {rng.choice(DAILY)}.",
    ))


def opening(rng: Random) -> str:
    """The beginning of a story, up to the hero's name."""
    text = story(rng)
    hero = re.search(rf"\b(?:{'|'.join(NAMES)})\b", text)
    return text[: hero.end()] if hero else text


def mentions(text: str) -> list[slice]:
    """Where a name stands that was said before: the places where a story is right or wrong."""
    seen: set[str] = set()
    again: list[slice] = []
    for found in re.finditer(rf"\b(?:{'|'.join(NAMES)})\b", text):
        if found[0] in seen:
            again.append(slice(*found.span()))
        seen.add(found[0])
    return again


def holds_together(text: str) -> bool:
    """Two names, the hero's and the friend's, and one thing, from the first line to the last."""
    names = {name for name in NAMES if re.search(rf"\b{name}\b", text)}
    things = {thing for thing in THINGS if thing.split(" ", 1)[1] in text}
    return len(names) == 2 and len(things) == 1


HEROES = (*ANIMALS, *PEOPLE)
