"""The vocabulary of the demo's little world: plain word lists, written for this project and belonging to nobody.

Only data lives here. `tasks.py` asks questions about these words, `stories.py` tells tales with them.
"""

from __future__ import annotations

NOUNS = """
acorn anchor angel apple arrow badge bag baker ball banana band bank barn basket bath beach bean bear bed bee bell belt bench berry
bike bird blanket boat bone book boot bottle bowl box branch bread brick bridge broom brush bucket bus button cabin cake camel
camera camp candle candy canoe cap car card carpet carrot castle cat cave chair chalk cheese cherry chest child circle city clay
clock cloud coal coat coin comb cook copper corn cotton cow crab cradle crane crow crown cup curtain daisy dance deer desk dish
doctor dog doll donkey door dragon drawer dream dress drum duck eagle ear earth egg elbow engine farm farmer feather fence field
finger fire fish flag flame flower flute fog forest fork fox frog fruit garden gate ghost giant gift glass glove goat gold goose
grape grass guitar hammer hand harbor hat hawk heart hill honey hook horn horse house ice ink island jacket jam jar jewel jungle
kettle key king kite kitten knee knife knot ladder lake lamb lamp lantern leaf lemon letter library lion lizard lock log machine
magnet map marble market mask meadow melon milk mill mirror monkey moon morning mother mountain mouse mud music nail neck needle
nest net night north nose nut oak ocean office onion orange oven owl paint palace pan paper park parrot peach pear pearl pebble
pen pencil penguin pepper piano picture pie pig pillow pilot pin pine pipe planet plant plate plum pocket poem pond pony pool
potato prince pumpkin puppet puppy queen rabbit rain rainbow ribbon rice ring river road robin robot rock roof room root rope
rose ruby sail salt sand school seal seed shadow sheep shell ship shirt shoe shop silver sister sky sled smoke snail snake snow
soap sock song soup south spider spoon spring square squirrel stable stamp star station stick stone storm story stove straw
street sugar summer sun swan swarm table tail tailor tea teacher tent thread thunder tiger timber toad tomato tooth tower town
toy train tree triangle trumpet tulip tunnel turtle uncle valley vase violin wagon wall water wave whale wheat wheel whistle
wind window wing winter wolf wood wool worm yard yellow zebra
""".split()

OTHER_WORDS = """
about above after again alone always amazing answer autumn become before begin below better between bitter black blue bold brave
bright bring broken brown build calm carry catch clean clear clever climb close cold color count create cross curious deep drink
early easy empty enjoy every fancy fast fine first fly follow forget free fresh friend funny gentle give good great green grow
happy hello help hidden hungry jump kind large later laugh lazy learn light listen little long loud lucky many never noisy open
other pink plain play polite proud purple quick quiet quite ready red rich round run sad second seven shiny short silent simple
sing sleep slow small smart smile soft strong sweet swim tall tell thank think third three tidy tiny today tomorrow travel true
under useful velvet visit walk warm wash welcome white wild wise wonder work world write young zero
""".split()

WORDS = tuple(sorted(set(NOUNS) | set(OTHER_WORDS)))
"""About 550 common words of three to nine letters; sorted, so that one seed draws the same words everywhere."""

NAMES = """
Ada Ali Anna Ben Bo Clara Dina Eli Emma Finn Grace Hana Ida Iris Jack Jonas Kai Lena Leo Lily Lina Luca Maya Mia Mila Milo Nina Noah
Nora Olga Omar Oscar Otto Pia Ravi Rosa Ruby Sam Sara Sofia Tara Theo Tim Tom Uma Vera Yara Zoe
""".split()

ACCENTED = ("café", "über", "señor", "crème", "naïve", "jalapeño", "smørrebrød", "façade", "köln", "fjörd", "łódź", "東京", "привет", "🙂", "🐝")
"""A few words outside ASCII, so that copying bytes one by one is practised on text of several bytes a letter."""
