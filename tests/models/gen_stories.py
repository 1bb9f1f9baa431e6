#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Deterministic generator of simple English: short stories, chat turns, small facts.

    python gen_stories.py --stories 70000 --chats 80000 --talks 40000 --qas 400000 --seed 11 \\
        --wordnet /usr/share/wordnet --out synth.txt
    python gen_stories.py --questions questions.jsonl --seed 99 --wordnet /usr/share/wordnet

Every document is one line-block ended by a line holding only the record separator "\\x1e".
A chat document uses the markers <|system|> <|user|> <|assistant|> <|end|> which the tokenizer knows as special
tokens.  All sentences in the grammar below were written for this project.  --wordnet (Debian: wordnet-base) adds
"What is a ...?" from the glosses of WordNet 3.0, whose licence asks for the notice in README.md.
--questions writes test questions with their answers instead of a corpus, one JSON object a line.
"""

# The sentences of the grammar are long, and so are its lists of words.
# ruff: noqa: E501, SIM905

import argparse
import itertools
import json
import random
import re
import sys
from contextlib import nullcontext
from pathlib import Path

SEP = "\x1e"

GIRLS = "Lily Mia Anna Rosa Clara Nora Ella Ivy Ruth Maya Zoe Lucy Emma Sara Nina Tess Ada Hana Leela Amina June Molly Wren Daisy Pearl Iris Eva Kate Sofia Priya".split()
BOYS = "Tom Ben Sam Max Leo Jack Finn Omar Hugo Theo Noah Eli Ravi Otto Luca Dan Pete Will Owen Kofi Milo Arlo Jun Felix Oscar Henry Ned Tim Raj Amos".split()
PETNAMES = "Pip Tuck Bramble Hazel Moss Biscuit Clover Dot Fern Pepper Willow Patch Button Nutmeg Berry Thistle Sunny Misty Ginger Poppy Acorn Marble Cricket Pebble Rusty Snow Maple Bean Echo Comet".split()
ANIMALS = {  # kind: (adjectives, home, good at, sound)
    "rabbit": ("brown", "in a warm hole under the hill", "hopping"),
    "fox": ("red", "in a den by the old oak", "finding paths"),
    "bear": ("brown", "in a cave behind the waterfall", "climbing"),
    "mouse": ("gray", "in a tiny hole in the barn wall", "squeezing through small places"),
    "owl": ("gray", "in a hollow tree", "seeing in the dark"),
    "frog": ("green", "by a quiet pond", "jumping"),
    "duck": ("white", "in the reeds beside the lake", "swimming"),
    "hedgehog": ("round", "under a pile of dry leaves", "rolling into a ball"),
    "squirrel": ("red", "in a nest high in a pine tree", "climbing"),
    "turtle": ("green", "on the muddy bank of the river", "being patient"),
    "cat": ("black", "in the baker's kitchen", "walking softly"),
    "dog": ("yellow", "in a house with a blue door", "following smells"),
    "lamb": ("white", "in a green meadow", "running"),
    "pony": ("brown", "in a stable near the road", "running"),
    "beaver": ("brown", "in a lodge across the stream", "building"),
    "badger": ("gray", "in a deep burrow", "digging"),
    "mole": ("black", "in a long tunnel", "digging"),
    "crow": ("black", "at the top of the church tower", "noticing shiny things"),
    "goose": ("white", "on the farm pond", "calling loudly"),
    "deer": ("brown", "in the quiet part of the forest", "running"),
    "otter": ("brown", "by a bend in the river", "swimming"),
    "kitten": ("gray", "in a basket by the stove", "chasing string"),
    "puppy": ("spotted", "in a box full of blankets", "digging"),
    "sparrow": ("brown", "in a nest under the roof", "flying"),
    "goat": ("white", "on a rocky hill", "climbing"),
    "snail": ("small", "on a garden wall", "being patient"),
}
ADULTS_F = ["mother", "grandmother", "aunt"]
ADULTS_M = ["father", "grandfather", "uncle"]
TRADES = [
    ("baker", "bread"),
    ("farmer", "apples"),
    ("fisherman", "fish"),
    ("gardener", "roses"),
    ("tailor", "coats"),
    ("carpenter", "chairs"),
    ("shepherd", "wool"),
    ("miller", "flour"),
    ("potter", "bowls"),
    ("beekeeper", "honey"),
    ("clockmaker", "clocks"),
    ("weaver", "blankets"),
    ("blacksmith", "horseshoes"),
    ("librarian", "books"),
]
OBJ = (
    "ball kite drum bell whistle lantern boat basket blanket book button hat scarf coin key map ring cup spoon bucket "
    "ladder rope doll puppet top marble feather shell stone flute violin painting clock candle mirror umbrella wagon "
    "sled pencil notebook box bag jar pillow ribbon necklace flag horn compass magnet puzzle mitten boot coat crown"
).split()
COLORS = "red blue green yellow white black brown golden silver purple orange pink gray".split()
SIZES = "small little big tiny round long old new shiny soft wooden heavy light bright smooth".split()
PLACES = [
    "the forest",
    "the meadow",
    "the beach",
    "the village",
    "the river",
    "the lake",
    "the garden",
    "the farm",
    "the hill",
    "the market",
    "the park",
    "the barn",
    "the orchard",
    "the mill",
    "the library",
    "the bridge",
    "the mountain",
    "the harbor",
    "the field",
    "the pond",
    "the school",
    "the town square",
    "the old castle",
    "the lighthouse",
    "the cave",
]
FOODS = (
    "bread soup cake pie cheese honey apples pears berries cookies pancakes porridge plums carrots nuts jam rice noodles "
    "butter muffins potatoes beans corn cherries peaches"
).split()
DRINKS = "tea milk water cocoa juice".split()
SEASONS = ["spring", "summer", "autumn", "winter"]
TREES = "oak pine apple willow birch maple cherry pear".split()
FLOWERS = "roses daisies tulips sunflowers lilies violets poppies".split()
SKILLS = [
    ("swim", "swimming", "the lake"),
    ("ride a bicycle", "riding", "the road"),
    ("bake bread", "baking", "the kitchen"),
    ("play the flute", "playing", "the garden"),
    ("read", "reading", "the library"),
    ("fly a kite", "flying the kite", "the hill"),
    ("skate", "skating", "the frozen pond"),
    ("paint", "painting", "the porch"),
    ("sew", "sewing", "the parlor"),
    ("row a boat", "rowing", "the river"),
    ("whistle", "whistling", "the yard"),
    ("climb", "climbing", "the hill"),
    ("dance", "dancing", "the barn"),
    ("tie a good knot", "tying knots", "the harbor"),
]
FEARS = [
    ("the dark", "One evening the lamp went out, and the whole house was dark", "It was only the wind in the trees"),
    ("thunder", "One night there came a loud storm", "It was only a big noise far away"),
    ("deep water", "One summer day everyone went to the lake", "The water was only cool and clear"),
    ("the big dog next door", "One morning the gate of the next house was open", "The big dog only wanted to play"),
    (
        "the old house on the hill",
        "One evening the road home led past the old house",
        "It was only an empty house with a kind old cat inside",
    ),
    (
        "high places",
        "One day a kite was caught at the top of the tower",
        "It was only one step, and then another, and then another",
    ),
    (
        "new people",
        "One morning it was the first day of school",
        "The new people were just as shy, and they wanted to be friends too",
    ),
    (
        "spiders",
        "One day there was a scratching noise in the attic",
        "It was only a very small spider, busy with its web",
    ),
    ("ghosts", "One windy night something white moved in the garden", "It was only a sheet on the washing line"),
]
BUILDS = [
    ("a bridge", "planks", "the stream"),
    ("a tree house", "boards", "the big tree"),
    ("a raft", "logs", "the pond"),
    ("a snow fort", "snow", "the yard"),
    ("a sand castle", "wet sand", "the beach"),
    ("a bird house", "thin boards", "the garden"),
    ("a little cart", "wheels and boxes", "the road"),
    ("a scarecrow", "straw and old clothes", "the field"),
    ("a swing", "rope and a plank", "the yard"),
    ("a stone wall", "flat stones", "the pasture"),
]
MORALS = {
    "share": [
        "A thing that is shared is never lost.",
        "Good things grow when they are shared.",
        "There is always enough when friends share.",
    ],
    "honest": [
        "It is better to tell the truth than to hide.",
        "The truth may be hard to say, but it makes the heart light.",
        "An honest word is worth more than a coin.",
    ],
    "patient": [
        "Slow steps still reach the top of the hill.",
        "Those who wait and work are happy in the end.",
        "Little by little, the work gets done.",
    ],
    "kind": [
        "A kind deed always finds its way home.",
        "It costs nothing to be kind.",
        "Kindness is a lamp that never goes out.",
    ],
    "brave": [
        "Being brave means trying even when you are afraid.",
        "Fear grows small when you look at it closely.",
        "The brave heart beats fast too.",
    ],
    "work": [
        "Many hands make light work.",
        "Friends who work together can do great things.",
        "A hard job is easy when everyone helps.",
    ],
    "greed": [
        "Those who want everything may end with nothing.",
        "It is good to know when you have enough.",
        "A small honest meal is better than a big stolen one.",
    ],
    "listen": [
        "It is wise to listen before you speak.",
        "Even a small voice can have a great idea.",
        "Good advice is like a map.",
    ],
}


class Ctx(dict):
    pass


def expand(r, s):
    """{a|b|c} picks one alternative, nested; an empty alternative is allowed."""
    while True:
        m = re.search(r"\{([^{}]*)\}", s)
        if not m:
            return s
        s = s[: m.start()] + r.choice(m.group(1).split("|")) + s[m.end() :]


def fill(r, c, s):
    s = expand(r, s)
    s = re.sub(r"\$([A-Za-z]+[0-9]?)", lambda m: str(c[m.group(1)]), s)
    s = re.sub(r"@ (?=([A-Za-z]))", lambda m: "an " if m.group(1).lower() in "aeiou" else "a ", s)
    s = re.sub(r"\bA\b(?= [aeiou])", "An", s)
    s = re.sub(r"  +", " ", s).strip()
    s = re.sub(r'(^|[.!?] |^"|[.!?] ")([a-z])', lambda m: m.group(1) + m.group(2).upper(), s)
    W = r"(?:What|How (?:can|did|do)|Where|Why|Who|Is|Are|Can|May|Do you|Did|Will|Were)\b(?! a| an| lovely| fine)"
    s = re.sub('((?:^|[" ])' + W + '[^".!?]*)[!,.]"', lambda m: m.group(1) + '?"', s)
    return s


def person(r, c, p, kind=None, avoid=()):
    """fills c[p+...] with name, pronouns and descriptions"""
    kind = kind or ("child" if r.random() < 0.55 else "animal")
    girl = r.random() < 0.5
    while True:
        if kind == "child":
            n = r.choice(GIRLS if girl else BOYS)
            what = "girl" if girl else "boy"
            adj = r.choice(
                ["little", "young", "kind", "clever", "quiet", "brave", "cheerful", "curious", "gentle", "busy"]
            )
        else:
            n = r.choice(PETNAMES)
            what = r.choice(list(ANIMALS))
            col = ANIMALS[what][0]
            adj = r.choice(
                [col, "little", "young", "small " + col, "clever", "curious", "gentle", "shy", "busy", "cheerful"]
            )
        if n not in avoid and what not in avoid:
            break
    c[p] = n
    c[p + "what"] = what
    c[p + "kind"] = kind
    c[p + "adj"] = adj
    for k, f, m in (
        ("he", "she", "he"),
        ("his", "her", "his"),
        ("him", "her", "him"),
        ("himself", "herself", "himself"),
    ):
        c[p + k] = f if girl else m
    for k in ("he", "his"):
        c[p + k.capitalize()] = c[p + k].capitalize()
    c[p + "home"] = (
        ANIMALS[what][1]
        if kind == "animal"
        else r.choice(
            [
                "in a small house near the mill",
                "in a white house with a blue door",
                "in a village by the sea",
                "on a farm at the edge of the forest",
                "in a tall house in the middle of town",
                "in a cottage on the hill",
                "in a red house beside the river",
                "in a little room above the bakery",
                "in an old house with a big garden",
                "near the school",
                "at the end of a long street",
                "beside the harbor",
            ]
        )
    )
    c[p + "skill"] = (
        ANIMALS[what][2]
        if kind == "animal"
        else r.choice(["running", "drawing", "singing", "asking questions", "telling jokes", "climbing", "counting"])
    )
    c[p + "the"] = f"{n} the {what}" if kind == "animal" else f"a {what} named {n}"
    c[p + "ref"] = f"the {what}"
    c[p + "Ref"] = f"The {what}"
    af = r.random() < 0.5
    ad = r.choice(ADULTS_F if af else ADULTS_M)
    if kind == "animal":
        ad = r.choice(["mother", "grandmother", "aunt"] if af else ["father", "grandfather", "uncle"])
    c[p + "adult"] = ad
    c[p + "ahe"] = "she" if af else "he"
    c[p + "aHe"] = c[p + "ahe"].capitalize()
    c[p + "ahis"] = "her" if af else "his"


def base(r):
    c = Ctx()
    person(r, c, "H")
    person(
        r,
        c,
        "F",
        kind=c["Hkind"] if r.random() < 0.6 else None,
        avoid=(c["H"], c["Hwhat"] if c["Hkind"] == "animal" else ""),
    )
    person(
        r,
        c,
        "G",
        kind="animal" if c["Hkind"] == "animal" else None,
        avoid=(
            c["H"],
            c["F"],
            c["Hwhat"] if c["Hkind"] == "animal" else "",
            c["Fwhat"] if c["Fkind"] == "animal" else "",
        ),
    )
    c["obj"] = r.choice(OBJ)
    c["obj2"] = r.choice([o for o in OBJ if o != c["obj"]])
    c["color"] = r.choice(COLORS)
    c["size"] = r.choice(SIZES)
    c["thing"] = r.choice(
        [c["color"] + " " + c["obj"], c["size"] + " " + c["obj"], c["size"] + " " + c["color"] + " " + c["obj"]]
    )
    c["place"] = r.choice(PLACES)
    c["placeB"] = r.choice([p for p in PLACES if p != c["place"]])
    c["food"] = r.choice(FOODS)
    c["foodB"] = r.choice([f for f in FOODS if f != c["food"]])
    c["drink"] = r.choice(DRINKS)
    c["season"] = r.choice(SEASONS)
    c["tree"] = r.choice(TREES)
    c["flowers"] = r.choice(FLOWERS)
    c["tradeA"], c["goods"] = r.choice(TRADES)
    c["skillV"], c["skillG"], c["skillP"] = r.choice(SKILLS)
    c["fear"], c["fearT"], c["fearE"] = r.choice(FEARS)
    c["build"], c["stuff"], c["buildP"] = r.choice(BUILDS)
    c["n"] = r.choice(["two", "three", "four", "five", "six", "seven"])
    c["under"] = r.choice(
        [
            "under a bush",
            "behind a big rock",
            "in the tall grass",
            "beside the fence",
            "under the old bridge",
            "between two roots of the $tree tree".replace("$tree", c["tree"]),
            "in an empty basket",
            "near the well",
            "at the bottom of the ditch",
            "on top of the wall",
        ]
    )
    c["wx"] = {
        "spring": r.choice(
            ["A soft rain had just stopped.", "The first flowers were open.", "The birds were building nests."]
        ),
        "summer": r.choice(
            [
                "The sun was high and the air was warm.",
                "The bees hummed in the clover.",
                "The days were long and bright.",
            ]
        ),
        "autumn": r.choice(
            ["The leaves were red and gold.", "A cool wind shook the branches.", "The apples were ripe on the trees."]
        ),
        "winter": r.choice(["Snow lay on the roofs.", "The pond was frozen hard.", "The air was cold and very still."]),
    }[c["season"]]
    return c


OPEN = [
    "{Once upon a time|Long ago|One $season|Once}, there was @ $Hadj $Hwhat named $H. $H lived $Hhome. $HHe {liked|loved} $Hskill{| more than anything else| and was very good at it| all day long}.",
    "{There was once|There once was} @ $Hadj $Hwhat named $H who lived $Hhome. {Everyone|All the neighbors} knew $H because $Hhe was so good at $Hskill.",
    "$H was @ $Hadj $Hwhat. $HHe lived $Hhome{| with $Hhis $Hadult}. {It was $season.|It was a fine $season day.} $wx",
    "$Hhome lived @ $Hadj $Hwhat named $H. {Every morning|Every day} $Hhe {went to|walked to|visited} $place{| to look around| to see what was new}.",
    "{It was $season.|It was a morning in $season.} $wx @ $Hadj $Hwhat named $H {looked out and smiled|woke up early|was on $Hhis way to $place}.",
]
FRIEND = [
    "$H had a {good|dear|best} friend, @ $Fadj $Fwhat named $F. {They did everything together.|They played together every day.|When one of them was sad, the other one knew what to do.}",
    "$HHis best friend was $F, @ $Fadj $Fwhat. {The two friends were hardly ever apart.|$F was good at $Fskill.}",
]
MEET = [
    'On the way $Hhe met @ $Fadj $Fwhat named $F. "{Good morning|Hello}, $H," said $F. "{Where are you going|What are you doing}{|  today| so early}?"',
    'Just then $Fthe came {down the path|around the corner|over the hill}. "{Hello|Good day}, $H!" said $F. "You look {worried|busy|thoughtful}. {What is the matter|Can I help you}?"',
]
HAPPY = [
    "$H {laughed|smiled|clapped|was so glad that $Hhe danced a little}.",
    "$H {felt warm inside|felt very proud|was happier than $Hhe had been all $season}.",
    "{What a day it was!|It was a good day.|It was the best day of the $season.}",
]
END = [
    "That {night|evening}, $H {fell asleep with a smile|slept very well|told the whole story to $Hhis $Hadult}. $moral",
    "{From that day on|After that}, $H and $F {were the best of friends|met every day at $place|always helped each other}. $moral",
    "And whenever $H {saw $place again|passed $place|thought of that day}, $Hhe {smiled|remembered what $Hhe had learned}. $moral",
    "Then they all went home and {ate warm $food|had $food and $drink|sat by the fire}. $moral",
    "$moral",
    "{The sun went down|The stars came out} over $place, and everyone was {happy|glad|at peace}. {The end.|$moral}",
]


def plot_lost(r, c):
    c["moral"] = r.choice(MORALS["kind"])
    return [
        r.choice(OPEN),
        "{One day|One morning|One afternoon}, $H could not find $Hhis $thing. $HHe looked {under the bed|behind the door|in the kitchen}. $HHe looked {in the yard|on the shelf|by the window}. The $obj was {gone|not there|nowhere to be seen}. $H {began to cry|felt very sad|did not know what to do}.",
        r.choice(MEET),
        '"I have lost my $thing," said $H. "{I had it yesterday|My $Hadult gave it to me|I take it everywhere}." "{Do not worry|Do not cry|Do not be sad}," said $F. "{We will look for it together.|Two can look better than one.|Let us think. Where did you play yesterday?}"',
        "{So they went|They walked|They hurried} to $place. They looked {up and down|high and low|everywhere}. They found {an old shoe|a gray feather|a broken plate|$n white stones|a sleepy snail}, but they did not find the $obj.",
        'Then $F {stopped|pointed|called out}. "{Look|Come here|What is that}!" There, $under, was something $color. It was the $obj!',
        '"{You found it|There it is}!" {cried|shouted} $H. "{Thank you, thank you|Thank you, $F|How can I thank you}!" "{That is what friends are for|It was nothing|I was happy to help}," said $F.',
        r.choice(HAPPY),
        r.choice(END),
    ]


def plot_share(r, c):
    c["moral"] = r.choice(MORALS["share"])
    return [
        r.choice(OPEN),
        r.choice(FRIEND),
        "{One day|One morning}, $H {found|was given|bought} a {basket|bag|plate} of $food. {The $food smelled wonderful.|It was more than $Hhe could eat.|$H had never seen such fine $food.}",
        '"{I will keep it all for myself|This is all mine|I do not want to share}," thought $H. So $Hhe hid the $food $under and said nothing.',
        'Soon $F came by. "{I am so hungry|I have had nothing to eat today|I smell something good}," said $F. "{Do you have anything to eat|Is there a little for me}?" $H {looked at the ground|felt $Hhis face grow hot|did not answer}.',
        "{That night|When $F was gone}, $H {could not enjoy the $food|ate until $Hhis stomach hurt|felt very alone}. The $food {did not taste good anymore|tasted like dust}. $H thought about $F{| and $Fhis hungry face}.",
        '{The next morning|Early the next day}, $H {ran|went} to $F with what was left. "I am sorry," said $H. "I {had $food and I did not share|was not a good friend}. {Please eat with me|Half of it is yours}."',
        "$F {smiled|hugged $H}. They sat down {by the fire|under the $tree tree|in the sun} and ate together{|, and now the $food tasted better than ever}. {$F brought some $foodB, too.|There was even some left for $Gthe.}",
        r.choice(END),
    ]


def plot_fear(r, c):
    c["moral"] = r.choice(MORALS["brave"])
    return [
        r.choice(OPEN),
        "There was only one thing that $H did not like. $HHe was afraid of $fear. {When $Hhe thought about it, $Hhis knees shook.|$HHe never told anyone about it.}",
        "$fearT. {$H wanted to hide.|$H wanted to run away.} But $Hhis friend $F{|, who was smaller than $H,} {needed help|was all alone out there|had gone ahead and not come back}.",
        '"{I must go|I have to help}, even if I am afraid," said $H. $HHe took {a deep breath|a little lantern|$Hhis warmest coat} and {went out|took one step|started to walk}. {$HHis heart beat fast.|One step. Then another. Then another.}',
        '$H {looked carefully|listened|opened $Hhis eyes}. And what do you think $Hhe found? $fearE. {"Is that all?" said $H.|$H almost laughed.}',
        '$F was {glad|so happy} to see $Hhim. "You {came|are so brave}," said $F. "{Were you not afraid|How did you do it}?" "{I was afraid|Yes, I was}," said $H, "but {I came anyway|you needed me more than I needed to hide}."',
        r.choice(["After that, $fear did not seem so bad.", "From then on, $H was not so afraid of $fear."]),
        r.choice(END),
    ]


def plot_honest(r, c):
    c["moral"] = r.choice(MORALS["honest"])
    c["obj"] = r.choice("clock mirror cup jar violin flute lantern bowl plate vase puppet wagon umbrella".split())
    c["thing"] = r.choice(["", c["color"] + " ", "old ", "little "]) + c["obj"]
    return [
        r.choice(OPEN),
        '$HHis $Hadult had @ $thing. It was very {old|dear|precious}. "{Please be careful with it|Do not touch it}," said $Hhis $Hadult.',
        "But {one day|one rainy day} $H {wanted to see it|was playing and forgot}. $HHe {picked it up|bumped the table|reached for it}, and {crash!|bang!|down it fell.} The $obj {was broken|lay in pieces|had a big crack in it}.",
        '$H {did not know what to do|was frightened}. "{I could hide it $under|I could say that the cat did it|Maybe nobody will see}," $Hhe thought. But {that did not feel right|$Hhis stomach felt like a stone|then $Hhe would have a secret, and secrets are heavy}.',
        '{When $Hhis $Hadult came home|That evening}, $H {spoke in a small voice|told the truth}. "I broke the $obj. {I am very sorry|It was my fault}."',
        '$HHis $Hadult was quiet for a {moment|little while}. Then $Hahe said, "{I am sad about the $obj|An $obj can be mended}, but I am {proud of you|glad that you told me the truth}."',
        "{Together they|The two of them} {mended the $obj with glue|fixed it as well as they could|carried the pieces to the $tradeA, who knew how to fix it}. {It was never quite the same, but $H liked it even more.|You could hardly see the crack.}",
        r.choice(["$H {felt light again|slept well that night}.", ""]),
        "$moral",
    ]


def plot_learn(r, c):
    c["moral"] = r.choice(MORALS["patient"])
    return [
        r.choice(OPEN),
        "$H wanted to learn to $skillV. {All $Hhis friends could do it.|$HHe dreamed about it at night.|$HHe thought about it all the time.}",
        '{So one day|One morning} $Hhe went to $skillP and tried. {It did not go well.|It was not easy at all.} {$HHe fell down.|Everything went wrong.|$HHe tried again and again.} "{I will never learn|It is too hard}," said $H.',
        '$HHis friend $F {heard $Hhim|came and sat down beside $Hhim}. "{I could not do it at first, either|It took me a whole $season to learn}," said $F. "{Try a little every day|Let me show you|Start slowly}."',
        "So $H tried {a little every day|once more}. On the first day $Hhe was {bad at it|very slow}. On the second day $Hhe was {a little better|not so slow}. {Days went by.|A week went by.} {$HHe did not give up.|Sometimes $Hhe wanted to stop, but $Hhe did not.}",
        'And then{, one fine day|, all at once}, $H could do it! "{Look at me|I can do it|Look, $F}!" $Hhe {cried|shouted}. $HHe was {really|truly} $skillG!',
        '$F {cheered|clapped}. "{I knew you could|You see}!" said $F. {$HHis $Hadult was so proud.|Even $Gthe came to watch.}',
        r.choice(END),
    ]


def plot_build(r, c):
    c["moral"] = r.choice(MORALS["work"])
    return [
        r.choice(OPEN),
        '{One day|That $season} $H {had an idea|made a plan}. "I will make $build," $Hhe said. $HHe {gathered|found|collected} some $stuff and went to $buildP.',
        "But the work was {hard|heavy|too much for one}. {By noon|After an hour} $H was {tired|ready to stop}, and there was still {so much to do|nothing to see}.",
        '$HHis friend $F came by and {asked what it was|looked at the $stuff}. "It will be $build," said $H. "{But I cannot do it alone|But it is too heavy for me}." "{I can help|I am good at $Fskill}," said $F.',
        'Then $Gthe came, too. "{May I help|What are you two making}?" asked $G. {So now there were three.|"I can {carry|hold} things," said $Ghe.}',
        "$H {measured|lifted|planned}, $F {carried|pulled}, and $G {pushed|held everything in place}. {They sang while they worked.|Nobody was in a hurry.|They stopped only to eat $food.} When the sun went down, {the work was done|it was finished}.",
        'It was {the best|the finest} one that anyone had ever seen. {Everybody in $place came to look.|They sat and looked at it for a long time.} "{We made it|Look what we did}!" said $H.',
        r.choice(END),
    ]


def plot_race(r, c):
    c["moral"] = r.choice(MORALS["patient"] + MORALS["kind"])
    return [
        r.choice(OPEN),
        "{One day|In $season}, there was a {race|great race} from $place to $placeB. The prize was @ $thing. {Everyone wanted to win.|$H wanted very much to win.}",
        '$F was {the fastest|very fast}. "{I will win|Nobody can catch me}," {said|boasted} $F. $H {said nothing|only smiled}. "One, two, three, go!" called the $tradeA, and they were off.',
        '$F ran {far|a long way} ahead. {Soon $F looked back and saw nobody.|It looked as if the race was over.} "{I have plenty of time|I can rest a little}," thought $F, and lay down {in the shade of a $tree tree|beside the road} and {fell asleep|closed $Fhis eyes}.',
        "$H did not stop. {Step by step|Slowly but surely}, $Hhe went on. {$HHe passed the well, the fence, and the sleeping $Fwhat.|$HHe was tired, but $Hhe kept going.}",
        r.choice(
            [
                'When $F woke up, $H was already at $placeB, {holding|with} the $obj. "{How did you do it|But I am faster}!" said $F. "{You are faster|Yes}, but I did not stop," said $H.',
                'But near $placeB $H heard a cry. $Gthe had {fallen|stepped on a thorn}. $H {stopped at once|did not think about the race anymore} and helped $Ghim. $F woke and ran past and won. But the $tradeA gave the $obj to $H. "{A kind heart is the better winner|This is for the one who helped}," said the $tradeA.',
            ]
        ),
        "$moral",
    ]


def plot_seed(r, c):
    c["moral"] = r.choice(MORALS["patient"])
    c["old"] = r.choice(["woman", "man", "gardener", "farmer"])
    return [
        r.choice(OPEN),
        'In spring, an old $old gave $H a {seed|single seed}. "{Plant it and take care of it|Plant it and be patient}," said the old $old.',
        "$H {dug a small hole|put the seed in a pot} and {covered it with earth|pressed the soil down}. {Every day $Hhe gave it water.|$HHe watered it each morning.} But nothing {happened|came up}.",
        'After {a week|three days}, $H asked, "{Why does it not grow|Is it asleep}?" "{Wait a little longer|Good things take time}," said $Hhis friend $F. {So $H waited.|$H waited, though it was hard.}',
        '{Then it rained for two days.|Then the sun shone for a week.} On the {third|next} morning, $H saw a tiny green {leaf|shoot}. "{It is growing|Look|It woke up}!" $Hhe {called|shouted}.',
        "{All summer it grew.|It grew and grew.} First it was as tall as {a cup|a spoon}. Then it was as tall as $H. {By autumn it was taller than the door.|And at the end of summer it was full of $flowers.|In autumn it was covered with {apples|pears|plums}.}",
        '$H {shared them with everyone|gave some to $F, to $G, and to the old neighbor}. {And $Hhe kept one seed for the next spring.|"Thank you for waiting," the wind seemed to say.}',
        "$moral",
    ]


def plot_gift(r, c):
    c["moral"] = r.choice(MORALS["kind"])
    return [
        r.choice(OPEN),
        r.choice(FRIEND),
        "{Tomorrow was|It was almost} $F's birthday, and $H {had no gift|wanted to give $Fhim something special}. $HHe had {no money|only one coin}.",
        "$H went to the {shop|market}. There was @ $thing, but it cost {too much|$n coins}. $H {sighed|went slowly home}.",
        '{On the way|At the corner} $Hhe saw the $tradeA, who had {dropped a heavy sack|too much to carry}. "{Let me help you|I can carry that}," said $H. They carried the $goods all the way to $placeB.',
        '"{You are very kind|Thank you}," said the $tradeA. "{What can I give you|Is there something you need}?" $H told about the birthday. The $tradeA {thought for a moment|smiled} and gave $Hhim {@ $thing|some fine $goods}.',
        'The next day $F opened the gift. "{It is beautiful|How did you know|It is just what I wanted}!" said $F. {They ate cake and played until dark.|They ate $food and laughed all afternoon.}',
        r.choice(END),
    ]


def plot_storm(r, c):
    c["moral"] = r.choice(MORALS["work"] + MORALS["kind"])
    return [
        r.choice(OPEN),
        '{One day|One evening} the sky {grew dark|turned gray}. {The wind began to blow.|Big drops began to fall.} "{A storm is coming|We must hurry}," said $H\'s $Hadult.',
        "$H {shut the windows|ran home|looked out}. Outside, {through the rain|in the wind}, $Hhe saw $Fthe. $F was {wet and cold|shaking} and had {nowhere to go|lost the way}.",
        '"{Come in|Quick, come inside}!" called $H. $HHe opened the door and gave $F {a warm blanket|a place by the fire} and {hot {tea|milk|cocoa}|a bowl of warm soup}. {Soon $F stopped shaking.|"Thank you," said $F.}',
        '{Knock, knock!|Then there was a knock.} It was $Gthe. {"Is there room for one more?"|"My house has blown away," said $G.} "{There is always room|Of course}," said $H. {It was a little crowded, but it was warm.|They all moved closer together.}',
        "{All night|For hours} the storm {roared|shook the walls}. They told stories and {sang songs|ate $food}, and {nobody was afraid|the night went by quickly}.",
        "In the morning {the sun came out|everything was bright and clean}. {Together they fixed the roof.|Together they went and built a new house for $G.}",
        r.choice(END),
    ]


def plot_greed(r, c):
    c["moral"] = r.choice(MORALS["greed"])
    c["lake"] = r.choice(["the pond", "the lake", "the river", "the well"])
    return [
        "{A|One day a} {hungry|greedy} $Hwhat {found|took} a {big piece of cheese|large bone|fine fish|loaf of bread} and {carried it home|ran off with it}. {On the way $Hhe came to|$HHe had to cross} $lake.".replace(
            "A hungry", "A hungry"
        )
        if c["Hkind"] == "animal"
        else r.choice(OPEN)
        + " $H loved {coins|sweets} more than anything. {One day $Hhe came to|One day $Hhe walked past} $lake.",
        '{Looking down|In the water}, $Hhe saw {another face looking up|someone just like $Hhim}. {"That one has more than I do!"|"I want that, too!"} $Hhe thought.',
        "$HHe {leaned over|reached down|opened $Hhis mouth} to {take it|grab it}. Splash! {Everything fell into the water and sank.|What $Hhe had was gone, and the other was only a picture in the water.}",
        '{"Now I have nothing,"|"How foolish I was,"} said the $Hwhat. {$HHe went home hungry.|$HHe went home with wet feet and a wiser head.}',
        "$moral",
    ]


def plot_fable(r, c):
    k = r.choice(["kind", "listen", "greed", "work", "honest"])
    c["moral"] = r.choice(MORALS[k])
    person(r, c, "H", "animal")
    person(r, c, "F", "animal", avoid=(c["H"], c["Hwhat"]))
    body = {
        "kind": [
            'A $Hwhat was {caught in a net|stuck in the mud|trapped under a branch}. "{Help|Please help me}," cried the $Hwhat. A $Fwhat heard it and {came at once|stopped}.',
            '"{You are big and I am small|I may be small}," said the $Fwhat, "but {I will try|small teeth can cut a rope}." {The $Fwhat worked and worked|It took all night}, and at last the $Hwhat was free.',
            '{Some days later|Not long after}, the $Fwhat was in danger. The $Hwhat {remembered|heard the cry} and came running. "{You helped me once|Now it is my turn}," said the $Hwhat.',
        ],
        "listen": [
            'A $Hwhat and a $Fwhat {walked|traveled} together to $place. At the crossroads, the $Fwhat said, "{Let us take the long road|The short road is not safe}."',
            '"{I know better|I never listen to a $Fwhat}," said the $Hwhat, and took the short road. {Soon the road ended at a deep river.|Soon it was full of thorns.}',
            'The $Hwhat had to {walk all the way back|climb over rocks until dark}. When $Hhe came to $place at last, the $Fwhat was already there, {eating $food|resting in the shade}. "{Next time I will listen|You were right}," said the $Hwhat.',
        ],
        "greed": [
            "A $Hwhat had a {jar of honey|hen that laid one golden egg each day|small field of corn}. {It was enough|There was always enough} for $Hhim and for $Hhis family.",
            'But the $Hwhat {wanted more|was not content}. "{I will not wait|If a little is good, much is better}," said the $Hwhat, and {took everything at once|opened it all in one day}.',
            'The next morning {nothing was left|it was all gone}. The $Fwhat shook $Fhis head. "{You had enough|Yesterday you were rich}," said the $Fwhat.',
        ],
        "work": [
            'All summer the $Fwhat {gathered food|worked in the sun}. The $Hwhat {sang and slept|lay in the grass}. "{Why do you work so hard|Come and play}," said the $Hwhat. "{Winter will come|I am getting ready}," said the $Fwhat.',
            "Then the snow fell. The $Hwhat {had nothing to eat|was cold and hungry}. $HHe knocked at the door of the $Fwhat.",
            '"{Come in|Sit down and eat}," said the $Fwhat. "But next summer {you must help me|we will work together}." And {so they did|the $Hwhat kept that promise}.',
        ],
        "honest": [
            'A $Hwhat {watched the sheep|guarded the barn} for the farmer. {It was dull work.|Nothing ever happened.} So one day the $Hwhat cried, "{Wolf! Wolf!|Fire! Fire!}" Everyone came running. The $Hwhat {laughed and laughed|thought it was very funny}.',
            "The next day the $Hwhat did it again. Again everyone came, and {again there was nothing|everyone went home angry}.",
            'On the third day it was true. "{Help! Help!|Please come!}" cried the $Hwhat. But {nobody came|nobody believed it}. "{You have fooled us before|We do not believe you}," said the $Fwhat.',
        ],
    }[k]
    return [*body, r.choice(["$moral", "{The lesson is this|And so we learn}: $moral", "$moral"])]


def plot_trade(r, c):
    c["moral"] = r.choice(MORALS["kind"] + MORALS["listen"])
    o = r.sample(OBJ, 4)
    c["o1"], c["o2"], c["o3"], c["o4"] = o
    t = r.sample(TRADES, 3)
    c["t1"], c["t2"], c["t3"] = (x[0] for x in t)
    return [
        r.choice(OPEN),
        "{One day|One morning} $H set out for {the market|$place} with @ $o1 to sell. $HHis $Hadult needed @ $o4.",
        'First $Hhe met a $t1. "{I need|I have been looking for} @ $o1 like that," said the $t1. "I will give you my $o2 for it." So they traded.',
        'Next $Hhe met a $t2. "What a {fine|lovely} $o2!" said the $t2. "{Will you take|Take} this $o3 for it." So they traded again.'.replace(
            "Will you take this $o3 for it.", "Will you take this $o3 for it?"
        ),
        '{At last|Near the end of the road} $Hhe met a $t3, who {was sitting by the road|looked sad}. "{If only I had|I wish I had} @ $o3," said the $t3. "{You can have mine|Take this one}," said $H. The $t3 was so glad that $Hhe got @ $o4 in return.'.replace(
            "$Hhe got", c["H"] + " got"
        ),
        '$H {went home|hurried home} with the $o4. $HHis $Hadult {laughed|could not believe it}. "{You went out with @ $o1 and came back with just what I needed|How clever you are}!"',
        "$moral",
    ]


def plot_night(r, c):
    c["moral"] = r.choice(
        [
            "And soon everyone $Hhome was asleep.".replace("$Hhome", c["Hhome"]),
            "Good night, little one.",
            "And the moon kept watch until morning.",
        ]
    )
    c["noise"] = r.choice(
        ["tap, tap, tap", "scratch, scratch", "whoo, whoo", "creak, creak", "drip, drip, drip", "thump, thump"]
    )
    src = {
        "tap, tap, tap": "a branch touching the window",
        "scratch, scratch": "a mouse making a nest",
        "whoo, whoo": "an owl on the roof",
        "creak, creak": "the old gate in the wind",
        "drip, drip, drip": "the rain in the bucket",
        "thump, thump": f"{c['F']} the {c['Fwhat']}, who could not sleep either",
    }
    c["src"] = src[c["noise"]]
    return [
        r.choice(OPEN),
        'It was {late|bedtime}. $HHis $Hadult had said good night. But $H {could not sleep|lay awake}. "$noise," went something in the dark.'.replace(
            '"$noise', '"' + c["noise"].capitalize()
        ),
        '"{What is that|Who is there}?" {whispered|asked} $H. {Nobody answered.|The moon shone on the floor.} "$noise."'.replace(
            '"$noise.', '"' + c["noise"].capitalize() + "."
        ),
        "$H {got up|took a candle} and {tiptoed to the window|looked outside}. {The stars were bright.|The grass was silver in the moonlight.} And there it was. It was only $src.",
        '$H {laughed softly|smiled}. {"Good night, then," $Hhe said.|"So it was you," $Hhe said.} $HHe {went back to bed|got under the warm blanket} and {closed $Hhis eyes|yawned}.',
        "$moral",
    ]


def plot_quest(r, c):
    c["moral"] = r.choice(MORALS["brave"] + MORALS["listen"])
    return [
        r.choice(OPEN),
        "{One day|One morning} $H found @ {old|torn|folded} map. It showed {a road|a path} from $place to $placeB, and there was a red X {beside a tall $tree tree|under a stone|at the end}.",
        '$HHe showed it to $Hhis friend $F. "{A treasure|Let us find it}!" said $F. {So the two of them packed $food and $drink|They put on their boots} and set out.',
        'First they came to {a wide river|a deep stream}. {There was no bridge|The water was fast}. "{We can use that log|Hold my hand}," said $H, and they crossed {carefully|one at a time}.',
        'Then they came to a dark {cave|wood}. {"I am a little afraid," said $F.|It was very quiet.} $H {held up a light|began to sing}, and they {went on|walked through it side by side}.',
        'At the $tree tree they dug {and dug|with their hands}. {Clunk!|Thud!} There was a {box|chest}. Inside it {was|lay} @ $thing, and a note. The note said, "{The best treasure is the friend who came with you|Whoever finds this must share it|You were brave to come so far}."',
        "$H and $F {looked at each other and laughed|smiled}. {They took turns with the $obj all the way home.|They put the $obj back for the next one to find.}",
        r.choice(END),
    ]


def plot_help(r, c):
    c["moral"] = r.choice(MORALS["kind"])
    return [
        r.choice(OPEN),
        "Near {the bridge|$place} lived an old $tradeA. {The old $tradeA made the best $goods in the land|Everyone knew the old $tradeA}. But {now the $tradeA was sick|the $tradeA had hurt a leg}, and {nobody came to help|the work did not get done}.",
        '$H heard about it. "{I can help|Somebody should help}," $Hhe {said|thought}. $HHe {knocked on the door|went there the very next day}. {"May I help you?" $Hhe asked.|"I am not very big, but I can work," $Hhe said.}',
        "In the morning $H {swept the floor|carried water}. At noon $Hhe {made soup|cut wood}. In the evening $Hhe {fed the hens|lit the lamp} and {told a funny story|read aloud from a book}. The old $tradeA {laughed for the first time in weeks|smiled}.",
        '{After $n days|Soon} the $tradeA was well again. "{I will not forget this|You worked hard, and you asked for nothing}," said the $tradeA, and gave $H @ $thing. "{It is for you|I made it myself}."',
        "{$H ran home to show it to $Hhis $Hadult.|$H has it to this day.}",
        r.choice(END_N),
    ]


def plot_wish(r, c):
    c["moral"] = r.choice(MORALS["kind"])
    c["w1"], c["w2"], c["w3"] = r.choice(
        [
            ("was sick in bed", "will be well again", "healthy and smiling"),
            ("had no warm coat", "will be warm this winter", "in a fine new coat"),
            ("was far away and alone", "will come home", "with a bag and a big smile"),
            ("had lost a dear toy", "will find it again", "holding the toy and laughing"),
        ]
    )
    return [
        r.choice(OPEN),
        '{One night|One evening} $H {saw a falling star|caught a silver fish|found a strange lamp}. "{You may make one wish|I will give you one wish}," said a {small|soft} voice.',
        '$H thought {for a long time|hard}. "{I could wish for gold|I could wish for a mountain of $food}. {I could wish to be very tall|I could wish for a thousand {drums|kites|books}}." $HHe could not {decide|choose}.',
        'Then $Hhe thought of $Hhis friend $F, who $w1. "I wish," said $H, "that my friend $F $w2."',
        '"{That is a good wish|Nobody has ever asked me for that}," said the voice. {And the light went out.|Then it was quiet again.}',
        'In the morning {there was a knock at the door|$H ran to $F\'s house}. There stood $F, $w3. {"It is strange, but something wonderful has happened!" said $F.|"I had to come and see you," said $F.} $H {said nothing|only smiled}.',
        "$moral",
    ]


END_N = [e for e in END if "$F" not in e]


def plot_soup(r, c):
    c["moral"] = r.choice(MORALS["share"])
    return [
        r.choice(OPEN),
        '{One cold day|One winter evening} there was almost nothing to eat. $H had only {one onion|a little salt|one small carrot}. "{That is not enough for a soup|I cannot make soup from this}," $Hhe said.',
        'Then $F came by. "I have {two potatoes|a cup of beans}," said $F. "{They are not much|That is all I have}." "{Put them in the pot|Bring them in}," said $H, and lit the fire.',
        '$Gthe {smelled the smoke|knocked at the door}. "I have {some cabbage|a handful of herbs}," said $G. And the $tradeA brought {bread|a piece of butter}.',
        'The pot {bubbled|began to sing}. {They took turns with the big spoon.|A good smell filled the room.} {When it was done, there was soup for everyone.|Everyone had two bowls.} "{How can it be|This is strange}," said $H. "{Each of us had almost nothing, and now we are all full|I had only a little, and now there is so much}."',
        "$moral",
    ]


def plot_quarrel(r, c):
    c["moral"] = r.choice(MORALS["kind"] + MORALS["listen"])
    return [
        r.choice(OPEN),
        r.choice(FRIEND),
        '{But one day|One afternoon} they both wanted the $thing. "{It is mine|I saw it first|It is my turn}!" said $H. "{No, it is mine|You always have it|You had it yesterday}!" said $F. They pulled and pulled, and {the $obj fell down|the $obj flew into a puddle|snap! a piece came off}.',
        '"{Now look what you did|I will never play with you again}!" {shouted|cried} $H. $F {went home without a word|ran away}. {It was very quiet.|$H sat alone.}',
        '$H tried to play, but {it was no fun alone|the game was dull}. {$HHe walked to $place and back.|$HHe looked at the $obj.} "{A $obj is only a $obj|I miss $F}," $Hhe thought. "{I was wrong, too|I should have listened}."',
        'So $H {picked some $flowers|took some $food} and went to see $F. On the way $Hhe met $F, who {was coming to see $Hhim|was carrying some $foodB}. "{I am sorry|Forgive me}," they both said at the same time. Then they {laughed|had to laugh}.',
        "They {mended the $obj together|washed the $obj} and {took turns|made a rule: first one, then the other}.",
        r.choice(END),
    ]


def plot_fog(r, c):
    c["moral"] = r.choice(MORALS["listen"] + MORALS["brave"])
    return [
        r.choice(OPEN),
        "{One day|One autumn morning} $H walked {too far|farther than ever before}. {When $Hhe turned around, a thick fog had come.|The fog came down from the hills.} {$HHe could not see the path.|Every tree looked the same.}",
        '"{Where am I|Which way is home}?" asked $H. {Nobody answered.|Only the fog was there.} $HHe {sat down on a stone|stood still}. "If I run, I will be more lost," $Hhe thought. "{I will listen|I will wait and think}."',
        '$HHe listened. {Far away a bell rang.|Far away a stream was running.|Far away a dog barked.} "{I know that sound|That comes from $place}!" $HHe followed it {slowly|step by step}.',
        '{After a while|Soon} a small light {shone|came closer}. It was $Hhis $Hadult with a lantern. "{There you are|We looked for you everywhere}!" {$HHis $Hadult held $Hhim tight.|They walked home hand in hand.}'.replace(
            "hand in hand", "side by side"
        ),
        'At home there was {hot soup|warm $food}. "{How did you find the way|What did you do}?" asked $Hhis $Hadult. "I {stopped|sat down} and listened," said $H. $moral',
    ]


def plot_new(r, c):
    c["moral"] = r.choice(MORALS["kind"])
    return [
        r.choice(OPEN),
        "{One day|One morning} a new neighbor came to live {next door|across the road|near $place}. It was $Fthe. {The others did not know what to think.|$F looked at the ground and did not speak.}",
        '"{That one is different|We do not know anything about $F}," said $G. "{Maybe we should wait|I will not go there}." But $H {thought about it|remembered how it feels to be new}.',
        'So $H {took some $food|picked some $flowers|put on a clean hat} and knocked at the door. "{Welcome|Good morning}," said $H. "{I brought you this.|Would you like to see $place?}"',
        '$F {smiled a small smile|opened the door a little more}. "{Nobody has talked to me yet|You are the first one to visit}," said $F. "{Come in|Please sit down}." {They talked all morning.|They had $drink and $foodB.} $F {was good at $Fskill|told wonderful stories|knew @ $season song}, and soon they were laughing.',
        'The next day $G came, too. "{I was silly|I should have come sooner}," said $G. {And then there were three friends.|After that, $F was not new anymore.}',
        r.choice(END_N),
    ]


def plot_stage(r, c):
    c["moral"] = r.choice(MORALS["brave"])
    return [
        r.choice(OPEN),
        "There was going to be a {show|play|concert} at {the school|the town square|the barn}. $H was going to {sing a song|say a poem|play the drum}. {$HHe practiced every day.|At home it was easy.}",
        'But {on the day of the show|when the day came}, $H looked out and saw {all the people|so many faces}. {$HHis mouth was dry.|$HHis hands shook.} "{I cannot do it|I have forgotten everything}," $Hhe whispered.',
        '$F {stood beside $Hhim|took $Hhis hand}. "{Look only at me|Tell it just to me|I will be in the first row}," said $F. "{Take a deep breath|Start with one word}."',
        "$H {went out|walked to the middle}. $HHe looked at $F and began. The first {word|note} was very small. The next was {bigger|better}. {Soon $Hhe forgot to be afraid.|Then it all came back.}",
        "When it was over, {there was no sound at all, and then everybody clapped|the people stood up and cheered}. {$H bowed.|$H turned red and smiled.}",
        r.choice(END),
    ]


def plot_bake(r, c):
    c["moral"] = r.choice(MORALS["listen"] + MORALS["patient"])
    c["oops"], c["taste"] = r.choice(
        [
            ("salt instead of sugar", "salty"),
            ("far too much pepper", "hot"),
            ("no sugar at all", "plain"),
            ("the whole jar of honey", "sticky"),
        ]
    )
    return [
        r.choice(OPEN),
        '{One day|It was a rainy day, and} $H wanted to bake a {cake|pie} for $Hhis $Hadult. "{I know how|I do not need to read the book}," $Hhe said to $Hhis friend $F.',
        "$HHe mixed {flour, eggs, and milk|butter, flour, and eggs} in a big bowl. Then $Hhe put in $oops. {Flour was everywhere.|There was flour on the floor, on the table, and on $Hhis nose.}".replace(
            "Then $Hhe put in $oops.", "Then, by mistake, $Hhe put in $oops."
        ),
        '{When it was done|After an hour}, they tasted it. "{Oh|Oh no}," said $F. "It is very $taste." {$H tasted it and made a face.|$H wanted to cry.}',
        '"{Let us try again|We have time for one more}," said $F, "{and this time we will read the book|one step at a time}." So they {read every line|measured everything} and {worked slowly|did not hurry}.',
        'The second one was {perfect|golden and sweet}. $HHis $Hadult {ate two pieces|said it was the best in the world}. "{What happened to the first one|Why is there flour on the ceiling}?" $H and $F {only laughed|looked at each other and laughed}.',
        "$moral",
    ]


def plot_moon(r, c):
    c["moral"] = r.choice(
        [
            "Some things are best when nobody owns them.",
            "The moon belongs to everyone.",
            "Not every treasure can be carried home.",
        ]
    )
    return [
        r.choice(OPEN),
        'One night $H saw the moon in {the pond|a bucket of water|the well}. "{It has fallen down|I can take it home}," said $H. "{I will keep it in a box|It will be my lamp}."',
        "$HHe reached {in|down} with {a net|a spoon|both hands}. The moon {broke into pieces|danced away}. {$H waited. Slowly the moon came back.|When the water was still, there it was again.}",
        '$HHe tried {again and again|three times}. "{It does not want to come|Why does it run away}," said $H. $Fthe, who was {sitting nearby|watching}, said, "Look up."',
        '$H looked up. {There was the moon, round and bright, just where it always was.|High above the trees was the real moon.} {They sat and looked at it together.|"Oh," said $H, and sat down to look.}',
        "$moral",
    ]


def plot_kite(r, c):
    c["moral"] = r.choice(MORALS["work"])
    c["what2"] = r.choice(["kite", "ball", "hat", "scarf", "kitten"])
    c["it"] = "it"
    return [
        r.choice(OPEN),
        "{One windy day|One day} $H's $what2 {was|got} stuck {high in|at the top of} a $tree tree. {$H jumped, but $Hhe could not reach it.|$H threw a stick, but it fell down again.}",
        '"{I can reach it|Let me try}," said $F, and {climbed onto a box|stood on a bucket}. {It was not high enough.|It was still too far.}',
        '"{Stand on my back|I will hold the ladder}," said $Gthe. So $F {climbed up|stood on $G}, and $H {climbed up on $F|stood on top}. {They swayed to the left. They swayed to the right.|"Do not laugh," said $G, "or we will all fall down."}',
        '$H stretched {as far as $Hhe could|one arm} and {touched it|got hold of it}. "I have it!" {And down they all came in a heap.|And then they all fell into the soft grass.} {Nobody was hurt.|They laughed until it hurt.}',
        '"{None of us could reach it alone|I was too small|It took all of us}," said $H. $moral',
    ]


def plot_letter(r, c):
    c["moral"] = r.choice(MORALS["kind"])
    return [
        r.choice(OPEN),
        "{One morning|One day} a letter came for $H. {It was the first letter $Hhe had ever had.|It had a $color stamp.} It was from $Hhis $Hadult, who {lived far away|was on a long journey}.",
        '"Dear $H," said the letter. "{I am well|The sea is blue here|It is raining here}. {I think of you every day|I saw @ $thing and thought of you}. {I will come home in $season|Write to me soon}. With love."',
        '$H read it {twice|three times}. Then $Hhe {took a pencil|sat down at the table} and wrote back. "{I am well, too|Thank you for your letter}. {The $flowers are open|I can $skillV now|$F and I play every day}. {Please come soon|I miss you}."',
        "$HHe {put a feather in the letter|drew a picture of $place} and {ran to the post office|gave it to the mailman}. {Then $Hhe waited.|Day after day $Hhe looked down the road.}",
        'And one {evening|day} there were steps outside. {"I got your letter," said a voice.|"Is anybody home?" said a voice.} It was $Hhis $Hadult! {$H ran so fast that $Hhe lost a shoe.|They held each other for a long time.}',
        "$moral",
    ]


def plot_snow(r, c):
    c["moral"] = r.choice(
        [
            "Winter is warm when you have a friend.",
            "Some friends come back every year.",
            "What is made with love is never really gone.",
        ]
    )
    return [
        r.choice(OPEN),
        'In the night {snow had fallen|it had snowed}. The whole world was white. {$H put on $Hhis boots and ran outside.|"Snow!" shouted $H.}',
        '$H and $Hhis friend $F {rolled a big ball, a middle ball, and a small ball|pushed the snow into a heap}. {They gave it a carrot for a nose.|They found two black stones for eyes.} {It wore @ $color scarf and an old hat.|They put a bucket on its head.} "{It looks like a real person|It is smiling}," said $F.',
        "{All winter the snowman stood in the yard.|Every day they said good morning to the snowman.} {Birds sat on its arms.|They told it all their secrets.}",
        'But then {the sun grew warm|spring came}. Each day the snowman was {smaller|thinner}. {At last there was only a hat and a scarf.|One morning there was only a puddle.} $H was sad. "{It did not go away|Do not be sad}," said $Hhis $Hadult. "{It went into the stream and into the $flowers|It will come back with the snow}."',
        '{When the first flower opened, $H said, "Good morning, snowman."|$H kept the scarf in a box until the next winter.}',
        "$moral",
    ]


def plot_egg(r, c):
    c["moral"] = r.choice(MORALS["patient"] + MORALS["kind"])
    c["bird"] = r.choice(["duckling", "chick", "gosling", "owlet"])
    c["bn"] = r.choice(["Bit", "Fluff", "Twig", "Puff", "Tiny"])
    return [
        r.choice(OPEN),
        "{One day|One spring morning} $H found an egg $under. It was {all alone|white with small brown spots|still warm}. {There was no nest anywhere.|$HHe looked for the nest but found none.}",
        '$H {carried it home in a hat|wrapped it in wool} and {put it near the stove|kept it warm}. {"What will come out?" asked $F.|$F came to see it every day.} "{A dragon, maybe|I do not know|We must wait}," said $H.',
        'One day went by. {Two days went by. Three days went by.|A week went by.} {Then, tap, tap!|Then there was a small sound.} {A crack ran across the egg.|A little hole opened.} Out came a {wet|tiny} $bird. It {looked at $H|blinked} and said, "Peep!"',
        "$H named the $bird $bn. $bn followed $Hhim {everywhere|to $place and back}. {They ate together and slept side by side.|It learned to walk, and then to swim, and then to fly.}",
        'In autumn {the wild birds called from the sky|a flock flew over}. $bn looked up. "{You may go|It is all right}," said $H, {though it was hard to say|and smiled through tears}. {$bn flew once around the house and was gone.|And $bn flew away.}',
        'But in spring {there was a tap at the window|someone said "Peep!" at the door}. $bn had come back. $moral',
    ]


def plot_picnic(r, c):
    c["moral"] = r.choice(
        [
            "A rainy day can be a fine day, too.",
            "It is not the place but the friends that make a feast.",
            "Good food tastes better with good friends.",
        ]
    )
    return [
        r.choice(OPEN),
        r.choice(FRIEND),
        "{One sunny day|On the first warm day} they planned a picnic at $place. $H packed $food. $F brought $foodB and $drink. They even had {a blanket|@ $color blanket}.",
        'They had just sat down when {the ants came|a big cloud came|the wind blew the plates away}. {"Oh no!" said $F.|"Quick!" said $H.} They {picked up everything and ran|looked for a better spot}. Soon it was {raining|raining hard}.',
        "They {ran into a barn|hid under a big $tree tree|crawled under the blanket}. {The $food was wet.|There was water in the cups.} They looked at each other, {with wet hair and wet noses|wet from head to foot}, and {began to laugh|could not stop laughing}.",
        "There they {ate everything|had their picnic}. {They counted the raindrops.|They told riddles.|They sang as loud as the rain.} {When the sun came back, there was a rainbow.|They did not even see that the rain had stopped.}",
        r.choice(END_N),
    ]


def plot_boat(r, c):
    c["moral"] = r.choice(MORALS["listen"] + MORALS["work"])
    return [
        r.choice(OPEN),
        '{One morning|One summer day} $H and $Hhis friend $F took a small $color boat out on {the lake|the river}. "{Do not go past the rocks|Stay near the shore}," said the old fisherman. "{Yes, yes|We will}," said $H.',
        "{The water was smooth.|It was easy to row.} They went {a little farther, and a little farther still|past the rocks, just to see}. Then {the wind turned|the boat hit a stone, and water came in}.",
        '"{I am frightened|What shall we do}," said $F. "{I will row, and you take the bucket|Throw out the water, and I will row}," said $H. {They worked as hard as they could.|One, two! One, two!} The shore came {slowly|a little} closer.',
        "The fisherman {saw them|heard their call} and {threw a rope|came in a bigger boat}. {Soon they were on land.|He pulled them in.} They were {wet and tired|cold}, but safe.",
        '"{We should have listened|You were right}," said $H. The fisherman {gave them hot soup|wrapped them in a blanket}. "{Everyone makes that mistake once|Now you know the lake}," he said. $moral',
    ]


def plot_market(r, c):
    c["moral"] = r.choice(MORALS["honest"] + MORALS["greed"])
    return [
        r.choice(OPEN),
        "{One market day|On Saturday} $H went to {the market|the town} to buy $food. The $tradeA gave $Hhim the $food and {some coins back|the change}. {On the way home|At the corner}, $H counted the coins. There were $n coins too many.",
        '"{Nobody knows|I could buy @ $thing with this}," thought $H. {$HHe looked at the $thing in the window.|The coins were bright in $Hhis hand.} {But $Hhis feet went slower and slower.|But $Hhe thought of the $tradeA, who worked so hard.}',
        'So $H {turned around|went all the way back}. {It was a long way.|The sun was hot.} "You gave me too much," said $H. "{Here it is|These are yours}."',
        'The $tradeA {counted the coins|looked surprised}. "{I would never have known|Not many would come back}," said the $tradeA. "{Come and work for me on Saturdays|I need someone I can trust}." {And that is how $H learned to make $goods.|From then on, $H helped at the market every week.}',
        "$moral",
    ]


PLOTS = [
    (plot_lost, "losing something", 3),
    (plot_share, "sharing", 3),
    (plot_fear, "being brave", 3),
    (plot_honest, "telling the truth", 3),
    (plot_learn, "learning something new", 3),
    (plot_build, "working together", 3),
    (plot_race, "a race", 2),
    (plot_seed, "a seed", 2),
    (plot_gift, "a birthday", 3),
    (plot_storm, "a storm", 3),
    (plot_greed, "wanting too much", 1),
    (plot_fable, "animals", 3),
    (plot_trade, "a trade", 2),
    (plot_night, "bedtime", 2),
    (plot_quest, "a treasure", 3),
    (plot_help, "helping others", 3),
    (plot_wish, "a wish", 2),
    (plot_soup, "a soup", 2),
    (plot_quarrel, "a quarrel", 3),
    (plot_fog, "getting lost", 2),
    (plot_new, "a new neighbor", 3),
    (plot_stage, "a show", 2),
    (plot_bake, "baking", 2),
    (plot_moon, "the moon", 1),
    (plot_kite, "something stuck in a tree", 2),
    (plot_letter, "a letter", 2),
    (plot_snow, "the snow", 2),
    (plot_egg, "an egg", 2),
    (plot_picnic, "a picnic", 3),
    (plot_boat, "a boat", 2),
    (plot_market, "the market", 2),
]
BAG = [p for p in PLOTS for _ in range(p[2])]


def story(r):
    c = base(r)
    fn, theme, _ = r.choice(BAG)
    beats = fn(r, c)
    c["theme"] = theme
    c["moral"] = fill(r, c, c["moral"])
    paras, cur = [], []
    for b in beats:
        t = fill(r, c, b)
        if t:
            cur.append(t)
        if cur and r.random() < 0.45:
            paras.append(" ".join(cur))
            cur = []
    if cur:
        paras.append(" ".join(cur))
    text = "\n\n".join(paras)
    text = re.sub(r"\bA ([aeiou])", r"An \1", text)
    text = re.sub(r"\ba ([aeiou])(?!n?e\b)", r"an \1", text)
    text = re.sub(r"\ban (?=use|one|uni)", "a ", text)
    text = re.sub(r"\b([Aa])n (?=[bcdfgjklmnpqrstvwxyz])", r"\1 ", text)
    return c, fn.__name__, text


# ------------------------------------------------------------------ chat and facts
OPP = "hot cold,big small,up down,day night,happy sad,fast slow,open shut,wet dry,old new,loud quiet,hard soft,long short,high low,light dark,full empty,early late,near far,left right,in out,first last,strong weak,thick thin,clean dirty,rich poor,sweet sour,heavy light,deep shallow,wide narrow,brave afraid,asleep awake".split(
    ","
)
SOUND = {
    "dog": "woof",
    "cat": "meow",
    "cow": "moo",
    "sheep": "baa",
    "duck": "quack",
    "pig": "oink",
    "horse": "neigh",
    "rooster": "cock-a-doodle-doo",
    "frog": "ribbit",
    "owl": "hoot",
    "bee": "buzz",
    "lion": "roar",
    "mouse": "squeak",
    "crow": "caw",
    "snake": "hiss",
    "hen": "cluck",
}
BABY = {
    "dog": "puppy",
    "cat": "kitten",
    "cow": "calf",
    "sheep": "lamb",
    "horse": "foal",
    "duck": "duckling",
    "hen": "chick",
    "bear": "cub",
    "deer": "fawn",
    "frog": "tadpole",
    "goat": "kid",
    "goose": "gosling",
    "pig": "piglet",
    "lion": "cub",
    "owl": "owlet",
    "swan": "cygnet",
}
HOMES = {
    "bee": "a hive",
    "bird": "a nest",
    "bear": "a cave",
    "fox": "a den",
    "rabbit": "a burrow",
    "horse": "a stable",
    "spider": "a web",
    "dog": "a kennel",
    "pig": "a sty",
    "beaver": "a dam",
    "fish": "the water",
    "ant": "a hill",
}
THINGCOL = {
    "the sky": "blue",
    "grass": "green",
    "snow": "white",
    "a banana": "yellow",
    "a strawberry": "red",
    "coal": "black",
    "a carrot": "orange",
    "a frog": "green",
    "milk": "white",
    "the sun": "yellow",
    "chocolate": "brown",
    "an orange": "orange",
    "a lemon": "yellow",
    "the night": "dark",
    "a rose": "red",
}
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
KINDS = {
    "fruits": "apple pear plum cherry peach banana orange lemon grape".split(),
    "animals": "dog cat horse cow fox bear owl mouse frog".split(),
    "colors": "red blue green yellow white black brown purple".split(),
    "trees": "oak pine maple birch willow".split(),
    "tools": "hammer saw shovel rake axe ladder".split(),
    "vegetables": "carrot potato onion bean pea corn cabbage".split(),
    "birds": "owl crow sparrow duck goose hen swan".split(),
    "things in a kitchen": "spoon cup plate pot knife table stove".split(),
    "clothes": "hat coat scarf boot glove shirt sock".split(),
    "seasons": SEASONS,
    "musical instruments": "drum flute violin horn bell piano".split(),
}
NUM = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty".split()
JOBS = {
    "baker": "bakes bread and cakes",
    "farmer": "grows food and keeps animals",
    "fisherman": "catches fish",
    "teacher": "helps people learn",
    "doctor": "helps sick people get well",
    "tailor": "makes and mends clothes",
    "carpenter": "builds things from wood",
    "shepherd": "takes care of sheep",
    "gardener": "takes care of plants",
    "miller": "grinds grain into flour",
    "librarian": "takes care of books",
    "beekeeper": "keeps bees and collects honey",
    "blacksmith": "makes things from iron",
    "sailor": "works on a ship",
    "painter": "makes pictures",
    "clockmaker": "makes and mends clocks",
}


def an(w):
    return ("an " if w[0].lower() in "aeiou" else "a ") + w


# ------------------------------------------------------------------ definitions of everyday words, written for this project
# word: definition; a word after "-" takes no article
DEFS = """
ball: a round toy that you can throw, kick, or roll
kite: a light toy on a string that flies in the wind
whistle: a small thing that makes a high sound when you blow into it
lantern: a light in a case that you can carry in the dark
blanket: a warm cloth for a bed
book: a set of pages with words or pictures to read
hat: a thing that you wear on your head
scarf: a long piece of cloth that keeps your neck warm
coin: a small round piece of metal used as money
key: a small piece of metal that opens a lock
map: a drawing that shows where places are
ring: a small circle of metal worn on a finger
spoon: a tool with a small bowl at one end for eating soup
bucket: a round container with a handle for carrying water
ladder: two long poles with steps between them for climbing
doll: a toy that looks like a person
puppet: a doll that is moved by a hand or by strings
top: a toy that spins on its point
shell: the hard cover of a snail, a nut, or an egg
flute: a musical instrument shaped like a thin pipe that you blow
violin: a musical instrument with four strings played with a bow
painting: a picture made with paint
candle: a stick of wax that gives light when it burns
mirror: a piece of glass in which you can see yourself
umbrella: a round cover on a stick that keeps the rain off
sled: a seat on runners for sliding over snow
notebook: a book of empty pages to write in
box: a container with flat sides and often a lid
jar: a glass container with a wide top and a lid
necklace: a chain or string of beads worn around the neck
flag: a piece of colored cloth that stands for a country or a group
horn: a hard pointed part on the head of some animals
compass: a tool with a needle that always points north
magnet: a piece of metal that pulls iron toward it
puzzle: a game or question that makes you think hard
mitten: a warm cover for the hand with one part for the thumb
boot: a strong shoe that covers the foot and part of the leg
crown: a gold ring that a king or queen wears on the head
rabbit: a small animal with long ears that hops
fox: a wild animal like a small dog with a red coat and a thick tail
bear: a big, strong, furry animal that sleeps in winter
mouse: a very small furry animal with a long thin tail
owl: a bird with big round eyes that hunts at night
frog: a small green animal that jumps and lives near water
duck: a bird with a flat bill that swims on ponds
hedgehog: a small animal that is covered with sharp spines
turtle: a slow animal with a hard shell on its back
cat: a small furry animal that people keep as a pet
dog: a friendly animal that people keep as a pet and a helper
lamb: a young sheep
beaver: an animal with a flat tail that builds dams in streams
badger: a gray animal with a striped face that digs burrows
mole: a small dark animal that digs tunnels under the ground
crow: a large black bird with a loud voice
goose: a big white bird with a long neck
deer: a wild animal with thin legs that runs fast in the forest
otter: a brown animal that swims well and eats fish
kitten: a young cat
puppy: a young dog
sparrow: a small brown bird
goat: an animal with horns and a beard that climbs well
snail: a small slow animal with a round shell on its back
-bread: a food made from flour and water and baked in an oven
-soup: a hot liquid food made by cooking meat or vegetables in water
cake: a sweet food made from flour, eggs, and sugar
pie: a baked food with fruit or meat inside a crust
-cheese: a food made from milk
-porridge: a soft hot food made from oats and milk
-corn: a tall plant with yellow seeds that people eat
-water: a clear liquid that falls as rain and fills rivers and seas
-cocoa: a hot sweet drink that tastes of chocolate
-juice: the liquid that comes out of fruit
apple: a round red or green fruit that grows on a tree
willow: a tree with long thin branches that hang down
birch: a tree with thin white bark
maple: a tree whose leaves turn red in autumn
cherry: a small round red fruit with a stone inside
rose: a sweet-smelling flower that grows on a bush with thorns
daisy: a small flower with white petals and a yellow center
tulip: a bright spring flower shaped like a cup
sunflower: a tall plant with a very big yellow flower
lily: a large flower shaped like a bell
violet: a small purple flower
poppy: a bright red flower of the fields
baker: a person who bakes bread and cakes
tailor: a person who makes and mends clothes
shepherd: a person who takes care of sheep
miller: a person who makes flour in a mill
librarian: a person who takes care of books in a library
beekeeper: a person who keeps bees for their honey
blacksmith: a person who makes things from hot iron
clockmaker: a person who makes and mends clocks
plum: a soft purple fruit with a stone inside
peach: a soft round fruit with a fuzzy skin
banana: a long yellow fruit that you peel
grape: a small round fruit that grows in bunches
horse: a large animal with a mane that people ride
cow: a large farm animal that gives milk
saw: a tool with sharp teeth for cutting wood
shovel: a tool with a wide blade for digging
rake: a tool with a row of teeth for gathering leaves
carrot: a long orange root that people eat
potato: a round vegetable that grows under the ground
onion: a round vegetable that makes your eyes water when you cut it
bean: a seed that grows in a pod and is good to eat
cabbage: a round vegetable with thick green leaves
hen: a female chicken that lays eggs
swan: a large white water bird with a long neck
plate: a flat dish that you put food on
pot: a deep round container for cooking
knife: a tool with a sharp blade for cutting
table: a piece of furniture with a flat top and legs
sock: a soft cover for the foot that you wear inside a shoe
-spring: the season after winter when plants begin to grow
-summer: the warmest season of the year
-autumn: the season when leaves fall from the trees
-winter: the coldest season of the year
piano: a large musical instrument with black and white keys
sheep: a farm animal that is covered with wool
pig: a farm animal with a flat nose and a curly tail
rooster: a male chicken that crows in the morning
lion: a big wild cat with a loud roar
snake: a long thin animal without legs
calf: a young cow
foal: a young horse
duckling: a young duck
chick: a young bird
cub: a young bear, fox, or lion
fawn: a young deer
tadpole: a young frog that still has a tail
gosling: a young goose
piglet: a young pig
owlet: a young owl
school: a place where children learn
tree: a tall plant with a trunk, branches, and leaves
star: a bright point of light in the night sky
sun: the star that gives us light and warmth
moon: the bright round body that moves around the earth at night
river: a long stream of water that flows to the sea
lake: a large area of water with land all around it
sea: a very large area of salt water
forest: a large place full of trees
farm: a place where people grow food and keep animals
garden: a place where people grow flowers and vegetables
house: a building where people live
road: a way on which people walk, ride, or drive
bridge: a way built over a river or a road
train: a line of cars that runs on rails
bus: a big car that carries many people
car: a machine with four wheels that people drive
ship: a very large boat that sails on the sea
phone: a machine that lets you talk with people far away
computer: a machine that works with numbers, words, and pictures
window: an opening in a wall with glass that lets in light
door: a board that opens and shuts the way into a room
friend: a person whom you like and trust
mother: a woman who has a child
father: a man who has a child
sister: a girl who has the same parents as you
brother: a boy who has the same parents as you
baby: a very young child
child: a young boy or girl
man: a grown boy
woman: a grown girl
king: a man who rules a country
queen: a woman who rules a country
prince: the son of a king or queen
princess: the daughter of a king or queen
dragon: a big animal in old stories that breathes fire
-rain: water that falls from the clouds in drops
-snow: soft white ice that falls from the sky in winter
-wind: air that moves
cloud: a white or gray shape in the sky made of tiny drops of water
rainbow: a bow of many colors in the sky after rain
island: a piece of land with water all around it
mountain: a very high hill
desert: a dry place where little rain falls
city: a very large town
town: a place with many houses and shops
village: a small group of houses in the country
market: a place where people buy and sell things
church: a building where people pray
cave: a large hole in the side of a hill
robot: a machine that can move and do work by itself
program: a list of steps that tells a computer what to do
language model: a computer program that reads and writes words
story: a telling of things that happened or were made up
elephant: a very large gray animal with a long trunk
tiger: a big wild cat with black stripes
monkey: an animal with a long tail that climbs trees
giraffe: a tall animal with a very long neck
zebra: an animal like a horse with black and white stripes
ant: a very small insect that lives and works with many others
bee: an insect that makes honey
spider: a small animal with eight legs that makes webs
butterfly: an insect with large colorful wings
whale: the biggest animal in the sea
shark: a big fish with many sharp teeth
fish: an animal that lives in water and swims with fins
bird: an animal with feathers and two wings
fork: a tool with points for picking up food
pan: a flat metal dish for cooking
oven: a hot box for baking food
kettle: a pot with a spout for boiling water
towel: a cloth for drying yourself
shoe: a thing that you wear on your foot
hammer: a tool for hitting nails
spade: a tool with a flat blade for digging
pirate: a robber who sails the sea in old stories
pony: a small horse
-wool: the soft hair of a sheep
-honey: the sweet food that bees make
-glass: a hard clear material that windows are made of
girl: a female child
boy: a male child
pear: a sweet yellow or green fruit that is narrow at the top
"""


def own_definitions():
    """the entries of DEFS: [(word, definition, article)]"""
    out = []
    for line in DEFS.strip().split("\n"):
        w, d = line.split(": ", 1)
        art = "the " if w in ("sun", "moon", "sea") else "" if w[0] == "-" else an(w)[: -len(w)]
        out.append((w.lstrip("-"), d, art))
    return out


def lookup(r):
    """questions whose answer must be copied from the question: they teach attention to copy names early, and make handy retrieval tests"""
    k = r.random()
    words = OBJ + FOODS + list(ANIMALS) + COLORS + GIRLS + BOYS + PETNAMES
    if k < 0.35:
        w = [r.choice(words) for _ in range(r.randrange(2, 10))]
        return r.choice(["Repeat: ", "Say this again: ", "Copy these words: "]) + " ".join(w), " ".join(w)
    if k < 0.75:
        n = r.randrange(2, 6)
        who = r.sample(GIRLS + BOYS + PETNAMES, n)
        what = r.sample(OBJ, n)
        col = [r.choice(COLORS) for _ in range(n)]
        facts = " ".join(f"{x} has {an(c + ' ' + o)}." for x, c, o in zip(who, col, what, strict=True))
        i = r.randrange(n)
        return r.choice(
            [
                (f"{facts} Who has the {what[i]}?", f"{who[i]} has the {what[i]}."),
                (f"{facts} What does {who[i]} have?", f"{who[i]} has {an(col[i] + ' ' + what[i])}."),
                (f"{facts} What color is the {what[i]}?", f"The {what[i]} is {col[i]}."),
            ]
        )
    w = r.choice(words).lower() + r.choice(["", " " + r.choice(words).lower()])
    filler = [
        f"{r.choice(GIRLS + BOYS)} went to {r.choice(PLACES)}.",
        f"There was {r.choice(FOODS)} on the table.",
        f"{r.choice(PETNAMES)} slept under the {r.choice(TREES)} tree.",
        f"It was a fine day in {r.choice(SEASONS)}.",
    ]
    t = [f"The secret word is {w}.", *r.sample(filler, r.randrange(1, 5))]
    r.shuffle(t)
    return " ".join(t) + " What is the secret word?", f"The secret word is {w}."


def qa(r, wn):
    if r.random() < 0.3:
        return lookup(r)
    k = r.random()
    q = a = ""
    if wn and k < 0.30:
        w, g, art = r.choice(wn)
        q = r.choice(
            [
                f"What is {art}{w}?",
                f"What is {art}{w}?",
                f"What does the word {w} mean?",
                f"Define {w}.",
                f"What is the meaning of {w}?",
            ]
        )
        a = r.choice(
            [f"{(art + w).capitalize()} is {g}.", f"{(art + w).capitalize()} is {g}.", f"The word {w} means {g}."]
        )
    elif k < 0.36:
        x, y = r.choice(OPP).split()
        if r.random() < 0.5:
            x, y = y, x
        q = r.choice([f"What is the opposite of {x}?", f"Tell me the opposite of {x}."])
        a = f"The opposite of {x} is {y}."
    elif k < 0.40:
        x = r.choice(list(SOUND))
        q = r.choice([f"What does {an(x)} say?", f"What sound does {an(x)} make?"])
        a = f"{an(x).capitalize()} says {SOUND[x]}."
    elif k < 0.44:
        x = r.choice(list(BABY))
        q = f"What do you call a baby {x}?"
        a = f"A baby {x} is called {an(BABY[x])}."
    elif k < 0.47:
        x = r.choice(list(HOMES))
        q = f"Where does {an(x)} live?"
        a = f"{an(x).capitalize()} lives in {HOMES[x]}."
    elif k < 0.50:
        x = r.choice(list(THINGCOL))
        q = f"What color is {x}?"
        a = f"{x[0].upper() + x[1:]} is {THINGCOL[x]}."
    elif k < 0.54:
        i = r.randrange(7)
        q = r.choice([f"What day comes after {DAYS[i]}?", f"If today is {DAYS[i]}, what day is tomorrow?"])
        a = f"The day after {DAYS[i]} is {DAYS[(i + 1) % 7]}."
    elif k < 0.57:
        i = r.randrange(12)
        q = f"What month comes after {MONTHS[i]}?"
        a = f"The month after {MONTHS[i]} is {MONTHS[(i + 1) % 12]}."
    elif k < 0.66:
        x, y = r.randrange(0, 21), r.randrange(0, 21)
        if r.random() < 0.6:
            q = r.choice([f"What is {x} plus {y}?", f"What is {x} + {y}?", f"Add {x} and {y}."])
            a = f"{x} + {y} = {x + y}"
        else:
            x, y = max(x, y), min(x, y)
            q = r.choice([f"What is {x} minus {y}?", f"What is {x} - {y}?"])
            a = f"{x} - {y} = {x - y}"
    elif k < 0.70:
        x = r.randrange(0, 15)
        y = x + r.randrange(2, 10)
        q = f"Count from {x} to {y}."
        a = ", ".join(str(i) for i in range(x, y + 1)) + "."
    elif k < 0.76:
        kk = r.choice(list(KINDS))
        n = r.randrange(2, min(5, len(KINDS[kk])) + 1)
        s = r.sample(KINDS[kk], n)
        q = r.choice([f"Name {NUM[n]} {kk}.", f"List {NUM[n]} {kk}.", f"Give me a list of {NUM[n]} {kk}."])
        a = r.choice(
            [
                "\n".join(f"{i + 1}. {x}" for i, x in enumerate(s)),
                "\n".join(f"- {x}" for x in s),
                ", ".join(s[:-1]) + " and " + s[-1] + ".",
            ]
        )
    elif k < 0.79:
        x = r.choice(list(JOBS))
        q = f"What does {an(x)} do?"
        a = f"{an(x).capitalize()} {JOBS[x]}."
    elif k < 0.82:
        w = r.choice(OBJ + list(ANIMALS) + FOODS)
        q = r.choice([f"Spell {w}.", f"How do you spell {w}?"])
        a = "-".join(w) + "."
    elif k < 0.88:
        n = r.choice(GIRLS + BOYS)
        g = r.randrange(4, 13)
        an_ = r.choice(list(ANIMALS))
        col = r.choice(COLORS)
        q = f"Write JSON for a child named {n}, age {g}, with {an(an_)} and a favorite color of {col}."
        a = f'{{"name": "{n}", "age": {g}, "pet": "{an_}", "color": "{col}"}}'
    elif k < 0.94:
        q, a = r.choice(
            [
                ("Hello!", "Hello! What would you like to hear today? I can tell you a story."),
                ("Hi.", "Hi there! Would you like a story?"),
                ("How are you?", "I am very well, thank you. How are you?"),
                (
                    "Who are you?",
                    "I am a very small language model. I can tell short stories and answer simple questions.",
                ),
                ("What can you do?", "I can tell short stories, explain simple words, count, and add small numbers."),
                ("Good morning!", "Good morning! I hope you have a fine day."),
                ("Thank you.", "You are welcome!"),
                ("Good night.", "Good night. Sleep well!"),
                ("Goodbye!", "Goodbye! Come back soon."),
                ("Are you a person?", "No, I am a small computer program that writes words."),
                ("Tell me a joke.", "Why did the clock go to school? It wanted to be on time."),
                ("What is your name?", "I have no name yet. You may call me Spark."),
            ]
        )
    else:
        w = r.choice(OBJ + list(ANIMALS))
        n = r.randrange(2, 6)
        q = f"Say {w} {NUM[n]} times."
        a = " ".join([w] * n) + "."
    return q, a


def story_chat(r):
    c, pl, t = story(r)
    hk = an(c["Hwhat"])
    opts = [
        f"Tell me a story about {hk}.",
        f"Tell me a story about {hk} named {c['H']}.",
        f"Tell me a story about {c['theme']}.",
        f"Write a short story about {hk} and {an(c['Fwhat'])}.",
        "Tell me a story.",
        f"Write a story about {c['theme']}.",
        f"Can you tell me a story with {hk} in it?",
        "Please tell me a short story.",
        f"I would like a story about {hk}.",
    ]
    if " " + c["obj"] in t:
        opts += [
            f"Tell me a story about {hk} and {an(c['obj'])}.",
            f"Write a story with the words {c['obj']} and {c['Hwhat']}.",
        ] * 2
    if pl in ("plot_fable", "plot_greed"):
        opts = [
            f"Tell me a fable about {hk}.",
            f"Tell me a fable about {hk} and {an(c['Fwhat'])}." if pl == "plot_fable" else "Tell me a fable.",
            "Tell me a fable.",
        ]
    return c, r.choice(opts), t


def talk(r, wn):
    """a conversation of several turns, some of them about the story just told"""
    turns = []
    for _ in range(r.randrange(1, 4)):
        if r.random() < 0.4:
            turns.append(qa(r, wn))
            continue
        c, q, t = story_chat(r)
        turns.append((q, t))
        k = r.random()
        if k < 0.45 and c["H"] in t:
            turns.append(
                r.choice(
                    [
                        ("Who is the story about?", f"The story is about {c['H']}, {an(c['Hwhat'])}."),
                        ("What was the name in the story?", f"The story is about {c['H']}."),
                        (f"What was the {c['Hwhat']} called?", f"The {c['Hwhat']} was called {c['H']}."),
                    ]
                    if c["Hkind"] == "animal" and c["Fwhat"] != c["Hwhat"]
                    else [("Who is the story about?", f"The story is about {c['H']}, {an(c['Hwhat'])}.")]
                )
            )
        elif k < 0.6:
            turns.append(
                r.choice(
                    [
                        ("Thank you.", "You are welcome!"),
                        ("I liked that story.", "I am glad you liked it. Would you like another one?"),
                        ("That was nice.", "Thank you! Would you like another story?"),
                    ]
                )
            )
        if k > 0.5 and r.random() < 0.5:
            turns.append((r.choice(["Tell me another one.", "Another story, please.", "One more story?"]), story(r)[2]))
    return turns


def chat(turns):
    return "".join(f"<|user|>{q}<|end|><|assistant|>{a}<|end|>" for q, a in turns)


def questions(r, wn):
    """test questions: every sum and difference, 200 definitions, 200 questions to copy from"""
    n = range(21)
    for x, y in itertools.product(n, n):
        yield "sum", f"What is {x} plus {y}?", f"{x} + {y} = {x + y}"
        yield "sum", f"What is {x} + {y}?", f"{x} + {y} = {x + y}"
        if x >= y:
            yield "difference", f"What is {x} minus {y}?", f"{x} - {y} = {x - y}"
            yield "difference", f"What is {x} - {y}?", f"{x} - {y} = {x - y}"
    for w, g, art in r.sample(sorted(set(wn)), 200):
        yield "definition", f"What is {art}{w}?", f"{(art + w).capitalize()} is {g}."
    for _ in range(200):
        yield "copy", *lookup(r)


def load_wordnet(path):
    """first-sense glosses of common, concrete nouns: [(word, gloss, article)]"""
    bad = re.compile(
        r"sex|genital|drug|kill|murder|weapon|penis|vagina|prostitut|whore|nazi|slave|insane|subnormal|stupid|despicable|adulter|narcotic|\bgun|bullet|bomb|explos|nuclear|missile|corpse|dead body|graves|fiend|cruel|deformed|clumsy|tobacco|threaten|crim|buttock|breast|poison|fleshy part|fella|puncher|jimhickey|lunkhead|jerk|oil well|negro|feces|urine|excre|vulgar|offensive|slang|disparag|obscene|drunk|suicide|genus |family |trade name|\(|\d|[^\x20-\x7e]"
    )
    keep = {"05", "06", "13", "20", "08", "17", "18", "27"}
    cnt = {}
    for line in Path(path, "cntlist.rev").read_text(encoding="latin1").split("\n")[:-1]:
        p = line.split()
        if len(p) >= 3 and p[0].split("%")[1][0] == "1":
            w = p[0].split("%")[0]
            cnt[w] = cnt.get(w, 0) + int(p[2])
    first = {}
    for line in Path(path, "index.noun").read_text(encoding="latin1").split("\n")[:-1]:
        if line.startswith(" "):
            continue
        p = line.split()
        n = int(p[2])
        first[p[0]] = p[-n]
    glo, lex, case = {}, {}, {}
    for line in Path(path, "data.noun").read_text(encoding="latin1").split("\n")[:-1]:
        if line.startswith(" "):
            continue
        a, g = line.split(" | ", 1)
        f = a.split()
        glo[f[0]] = g.strip()
        lex[f[0]] = f[1]
        case[f[0]] = set(f[4::2])
    out = []
    mass = {"27", "13"}
    massw = set(
        "milk tea coffee bread butter cheese honey meat beef pork fish rice flour sugar salt pepper juice wine beer water soup jam chocolate cream food fruit cocoa mustard bacon ham lemonade garlic corn toast oatmeal candy ice clothing furniture hair blood skin jewelry silk linen machinery equipment".split()
    )
    for w, off in sorted(first.items()):
        if (
            not re.fullmatch(r"[a-z]{3,12}", w)
            or cnt.get(w, 0) < 3
            or w not in case[off]
            or (
                re.search(r"(ing|ness|ism|ity)$", w)
                and w not in ("building", "ceiling", "string", "wing", "ring", "spring", "king", "earring")
            )
        ):
            continue
        g = glo[off].split(";")[0].split(' "')[0].strip().rstrip(".:")
        if lex[off] not in keep or not 12 <= len(g) <= 85 or bad.search(g) or bad.search(w):
            continue
        if not re.match(r"(a|an|the|any|one|some|someone|something) ", g) and lex[off] not in mass:
            continue
        art = (
            ""
            if lex[off] == "27"
            or w in massw
            or (lex[off] in mass and not re.match(r"(a|an|any) ", g))
            or g.startswith("any of")
            or (w.endswith("s") and not w.endswith("ss"))
            else an(w)[: -len(w)]
        )
        if w.endswith("s") and not w.endswith("ss"):
            continue
        out.append((w, g, art))
    return out


def main():
    ap = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    ap.add_argument("--stories", type=int, default=12000, help="plain stories")
    ap.add_argument("--chats", type=int, default=12000, help="a request and its story")
    ap.add_argument("--talks", type=int, default=6000, help="conversations of several turns")
    ap.add_argument("--qas", type=int, default=24000, help="documents of one to three short questions with answers")
    ap.add_argument("--seed", type=int, default=7)
    ap.add_argument("--wordnet", default="", help="folder with data.noun, index.noun and cntlist.rev")
    ap.add_argument("--questions", default="", help="write test questions here and no corpus")
    ap.add_argument("--out", default="-")
    a = ap.parse_args()
    r = random.Random(a.seed)
    own = own_definitions()
    wn = load_wordnet(a.wordnet) if a.wordnet else []
    print(f"definitions: {len(own)} of our own, {len(wn)} from WordNet", file=sys.stderr)
    wn = own * 2 + [e for e in wn if e[0] not in {o[0] for o in own}]
    if a.questions:
        with open(a.questions, "w") as f:
            for kind, q, t in questions(r, wn):
                f.write(json.dumps({"kind": kind, "question": q, "answer": t}) + "\n")
        return
    docs = [story(r)[2] for _ in range(a.stories)]
    docs += [chat([story_chat(r)[1:]]) for _ in range(a.chats)]
    docs += [chat(talk(r, wn)) for _ in range(a.talks)]
    docs += [chat([qa(r, wn) for _ in range(r.choice([1, 1, 2, 3]))]) for _ in range(a.qas)]
    docs += [chat([(f"What is {art}{w}?", f"{(art + w).capitalize()} is {g}.")]) for w, g, art in wn] * 3
    sysm = [
        "You are a kind storyteller.",
        "You are a helpful assistant.",
        "You are a small and friendly language model.",
        "Answer simply.",
        "You are a teacher who uses simple words.",
    ]
    docs = [
        f"<|system|>{r.choice(sysm)}<|end|>" + d if d.startswith("<|user|>") and r.random() < 0.15 else d for d in docs
    ]
    r.shuffle(docs)
    with open(a.out, "w") if a.out != "-" else nullcontext(sys.stdout) as f:
        f.writelines(f"{d}\n{SEP}\n" for d in docs)


if __name__ == "__main__":
    main()
