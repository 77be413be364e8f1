"""Little stories out of a grammar of our own, and a byte-level BPE vocabulary trained on them: what tools/train_stories.py
trains its language model on. Nothing here is taken from any text.

A story has a hero, a friend, an animal, a thing that is lost, and a place where it is found; names, pronouns, the thing and
its colour come back, so that what is to come depends on what was.
"""
import random
import re

HEROES = [("Anna", "she", "her"), ("Ben", "he", "his"), ("Clara", "she", "her"), ("David", "he", "his"),
          ("Emma", "she", "her"), ("Felix", "he", "his"), ("Greta", "she", "her"), ("Hugo", "he", "his"),
          ("Ida", "she", "her"), ("Jonas", "he", "his"), ("Lena", "she", "her"), ("Max", "he", "his")]
ANIMALS = ["cat", "dog", "duck", "goat", "horse", "mouse", "fox", "rabbit"]
THINGS = ["ball", "boat", "book", "coat", "drum", "hat", "kite", "ring", "scarf", "shoe"]
COLOURS = ["blue", "green", "red", "white", "yellow", "black"]
PLACES = {"garden": "under the old tree", "kitchen": "behind the stove", "barn": "on top of the hay",
          "forest": "beside a tall fern", "school": "below a small desk", "river": "between two stones",
          "attic": "inside a wooden box", "market": "next to the apples"}
WEATHER = ["sunny", "rainy", "windy", "cold", "warm"]
FEELINGS = ["sad", "worried", "upset"]
DAYS = ["Monday", "Tuesday", "Friday", "Sunday"]


def story(rng):
    (hero, they, their), (friend, friend_they, _) = rng.sample(HEROES, 2)
    animal, thing, colour, feeling = (rng.choice(x) for x in (ANIMALS, THINGS, COLOURS, FEELINGS))
    place, spot = rng.choice(list(PLACES.items()))
    They, weather = they.capitalize(), rng.choice(WEATHER)
    opening = rng.choice([
        f"One {weather} day, {hero} lost {their} {colour} {thing}.",
        f"On {rng.choice(DAYS)} {hero} couldn't find {their} {colour} {thing}.",
        f"{hero} had a {colour} {thing}. One {weather} day it was gone.",
    ])
    middle = rng.choice([
        f"{They} was {feeling} and asked {friend} for help.",
        f"{They} was {feeling}. \"Don't be {feeling},\" said {friend}. \"I'll help you.\"",
        f"\"Have you seen my {thing}?\" {they} asked {friend}. \"No,\" said {friend}, \"but let's look.\"",
    ])
    search = rng.choice([
        f"{hero} and {friend} went to the {place}.",
        f"So {they} and {friend} looked in the {place}.",
        f"They met a {animal}, and the {animal} led them to the {place}.",
    ])
    found = rng.choice([
        f"There, {spot}, was the {colour} {thing}!",
        f"The {colour} {thing} was {spot}.",
        f"{friend} looked {spot}, and there {friend_they} saw the {thing}.",
    ])
    end = rng.choice([
        f"{hero} was happy again and thanked {friend}.",
        f"\"Thank you, {friend}!\" said {hero}.",
        f"{hero} put the {thing} away and never lost it again.",
    ])
    return " ".join([opening, middle, search, found, end])


def stories(count, seed):
    rng = random.Random(seed)
    return [story(rng) for _ in range(count)]


# ------------------------------------------------------------------------------------------------ tokens

# GPT-2's words, for text in ASCII.
WORDS = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")


def alphabet():
    """The printable character that stands for each byte in vocab.json and merges.txt."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]


def merge(word, pair):
    """The tokens of a word with every neighbouring pair of these joined, from the left."""
    out = []
    for token in word:
        if out and (out[-1], token) == pair:
            out[-1] += token
        else:
            out.append(token)
    return tuple(out)


def train_bpe(texts, size):
    """(tokens, merges): 256 bytes first, then what the most frequent pair makes, until there are `size` tokens."""
    letters, words = alphabet(), {}
    for text in texts:
        for word in WORDS.findall(text):
            key = tuple(letters[b] for b in word.encode())
            words[key] = words.get(key, 0) + 1
    tokens, merges = list(letters), []
    while len(tokens) < size - 1:
        pairs = {}
        for word, count in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] = pairs.get(pair, 0) + count
        best = max(pairs, key=lambda p: (pairs[p], p))
        merges.append(best)
        if "".join(best) not in tokens:
            tokens.append("".join(best))
        merged = {}
        for word, count in words.items():
            word = merge(word, best)
            merged[word] = merged.get(word, 0) + count
        words = merged
    return tokens + ["<|endoftext|>"], merges


class Tokenizer:
    def __init__(self, tokens, merges):
        self.number = {t: i for i, t in enumerate(tokens)}
        self.rank = {pair: i for i, pair in enumerate(merges)}
        self.letters, self.seen = alphabet(), {}

    def encode_word(self, word):
        out = tuple(self.letters[b] for b in word.encode())
        while len(out) > 1:
            best = min(zip(out, out[1:]), key=lambda p: self.rank.get(p, len(self.rank)))
            if best not in self.rank:
                break
            out = merge(out, best)
        return [self.number[t] for t in out]

    def encode(self, text):
        out = []
        for word in WORDS.findall(text):
            if word not in self.seen:
                self.seen[word] = self.encode_word(word)
            out += self.seen[word]
        return out
