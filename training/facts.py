"""Small facts the demo model learns by heart. Each entry is (ways to ask, answer); nothing here needs reasoning."""

from __future__ import annotations

Fact = tuple[tuple[str, ...], str]

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon", "Austria": "Vienna",
    "Poland": "Warsaw", "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki", "Denmark": "Copenhagen", "Greece": "Athens",
    "Ireland": "Dublin", "Hungary": "Budapest", "Japan": "Tokyo", "China": "Beijing", "India": "New Delhi", "Egypt": "Cairo",
    "Kenya": "Nairobi", "Canada": "Ottawa", "Mexico": "Mexico City", "Brazil": "Brasilia", "Chile": "Santiago", "Peru": "Lima",
    "Cuba": "Havana", "Turkey": "Ankara", "Thailand": "Bangkok", "Iceland": "Reykjavik", "Belgium": "Brussels", "Argentina": "Buenos Aires",
}
SOUNDS = {
    "dog": "woof", "cat": "meow", "cow": "moo", "sheep": "baa", "pig": "oink", "duck": "quack", "frog": "croak", "horse": "neigh",
    "lion": "roar", "bee": "buzz", "owl": "hoot", "snake": "hiss", "mouse": "squeak", "wolf": "howl", "crow": "caw", "rooster": "cock-a-doodle-doo",
}
COLOURS = {
    "the sky": "blue", "grass": "green", "snow": "white", "coal": "black", "a lemon": "yellow", "a cherry": "red", "a carrot": "orange",
    "blood": "red", "a banana": "yellow", "chocolate": "brown", "a flamingo": "pink", "milk": "white", "a leaf": "green", "an elephant": "grey",
}
OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("up", "down"), ("fast", "slow"), ("day", "night"), ("open", "closed"), ("full", "empty"), ("happy", "sad"),
    ("old", "young"), ("high", "low"), ("left", "right"), ("wet", "dry"), ("hard", "soft"), ("early", "late"), ("light", "dark"),
    ("rich", "poor"), ("loud", "quiet"), ("long", "short"), ("strong", "weak"), ("true", "false"), ("in", "out"), ("near", "far"),
)
PLURALS = {
    "child": "children", "mouse": "mice", "foot": "feet", "tooth": "teeth", "man": "men", "woman": "women", "goose": "geese", "leaf": "leaves",
    "wolf": "wolves", "knife": "knives", "city": "cities", "baby": "babies", "box": "boxes", "dish": "dishes", "sheep": "sheep", "fish": "fish",
    "cat": "cats", "dog": "dogs", "tree": "trees", "house": "houses", "berry": "berries", "bus": "buses", "glass": "glasses", "book": "books",
}
YOUNG = {
    "dog": "a puppy", "cat": "a kitten", "cow": "a calf", "sheep": "a lamb", "horse": "a foal", "duck": "a duckling", "goat": "a kid",
    "pig": "a piglet", "bear": "a cub", "goose": "a gosling", "frog": "a tadpole", "hen": "a chick",
}
LEGS = {"dog": "4", "spider": "8", "bird": "2", "bee": "6", "snake": "0", "horse": "4", "ant": "6", "chicken": "2", "fish": "0", "crab": "10"}

SWARM: tuple[Fact, ...] = (
    (("what is swarm", "what does swarm do", "tell me about swarm"),
     "Swarm is a network of volunteers whose machines run a language model together."),
    (("what is a swarm peer", "what is a peer", "what does a peer do"),
     "A peer is a machine that holds some layers of the model and runs them for others."),
    (("what is a span", "what is a span of layers"), "A span is a run of neighbouring layers that one peer holds."),
    (("what is a chain", "what is a chain of peers"), "A chain is a list of peers that together hold every layer of the model."),
    (("what is a hop", "what is one hop"), "A hop is one peer on the chain."),
    (("what does the coordinator do", "what is the coordinator"), "The coordinator looks for a good chain of peers."),
    (("what happens when a peer leaves", "what happens if a peer is lost"), "Another peer takes over its layers and the answer goes on."),
    (("what is the draft model", "what does the draft model do"), "The draft model guesses the next tokens so that the swarm can check many at once."),
    (("how many layers do you have", "how many layers does the demo model have"), "I have 12 layers."),
    (("who runs swarm", "who owns the machines"), "Volunteers run swarm on their own machines."),
)
SMALL_TALK: tuple[Fact, ...] = (
    (("hello", "hi", "hi there", "good morning"), "Hello! Ask me to sort, to add, to spell, or to tell a story."),
    (("who are you", "what are you", "what is your name"), "I am the demo model of swarm, a very small model with 12 layers."),
    (("what can you do", "help", "what can I ask"), "I can sort, add, spell, count letters, name days, and tell short stories."),
    (("thanks", "thank you"), "You are welcome!"),
    (("bye", "goodbye", "see you"), "Goodbye!"),
    (("how are you", "how do you do", "are you well"), "I am fine, thank you."),
)


def article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def world() -> tuple[Fact, ...]:
    """Every fact about the world with its phrasings, in a fixed order."""
    facts: list[Fact] = []
    for country, city in CAPITALS.items():
        facts.append(((f"what is the capital of {country}", f"capital of {country}", f"name the capital of {country}"), city))
    for animal, sound in SOUNDS.items():
        facts.append(((f"what does {article(animal)} say", f"what sound does {article(animal)} make"), sound))
    for thing, colour in COLOURS.items():
        facts.append(((f"what colour is {thing}", f"what color is {thing}"), colour))
    for one, other in OPPOSITES:
        for a, b in ((one, other), (other, one)):
            facts.append(((f"what is the opposite of {a}", f"opposite of {a}"), b))
    for one, many in PLURALS.items():
        facts.append(((f"what is the plural of {one}", f"plural of {one}", f"one {one}, two"), many))
    for animal, young in YOUNG.items():
        facts.append(((f"what is a young {animal} called", f"what is a baby {animal} called"), young))
    for animal, legs in LEGS.items():
        facts.append(((f"how many legs does {article(animal)} have", f"how many legs has {article(animal)}", f"legs of {article(animal)}"), legs))
    return tuple(facts)
