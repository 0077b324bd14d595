"""True things: world facts, and real authors with a well-known work of each, and how they are asked for and told."""

from __future__ import annotations

from typing import NamedTuple

from engramlib.lab.data._author_language import CAPITALS, MONTHS


class Fact(NamedTuple):
    """Facts of one kind: {k} is what the question gives, {v} what it asks for. The first forms are those evaluated."""

    questions: tuple[str, ...]
    answers: tuple[str, ...]
    values: dict[str, str]  # {k}: {v}; at least six different {v}, so that five are wrong


WORLD_FACTS = (
    Fact(
        (
            "What is the capital of {k}?",
            "Which city is the capital of {k}?",
            "Can you name the capital of {k}?",
        ),
        ("The capital of {k} is {v}.", "{v} is the capital of {k}."),
        CAPITALS,
    ),
    Fact(
        (
            "What is the currency of {k}?",
            "With which currency do people pay in {k}?",
            "Can you name the currency of {k}?",
        ),
        ("The currency of {k} is the {v}.", "In {k}, people pay with the {v}."),
        {
            "Brazil": "real",
            "China": "yuan",
            "Hungary": "forint",
            "India": "rupee",
            "Japan": "yen",
            "Mexico": "peso",
            "Poland": "zloty",
            "Russia": "ruble",
            "South Korea": "won",
            "Sweden": "krona",
            "Switzerland": "franc",
            "Thailand": "baht",
            "Turkey": "lira",
        },
    ),
    Fact(
        (
            "Which language do most people speak in {k}?",
            "What is the main language of {k}?",
            "Can you name the language that is spoken in {k}?",
        ),
        ("Most people in {k} speak {v}.", "The main language of {k} is {v}."),
        {
            "Austria": "German",
            "Brazil": "Portuguese",
            "Egypt": "Arabic",
            "Greece": "Greek",
            "Hungary": "Hungarian",
            "Japan": "Japanese",
            "Poland": "Polish",
            "Russia": "Russian",
        },
    ),
    Fact(
        (
            "On which continent is {k}?",
            "Which continent is {k} part of?",
            "Can you name the continent of {k}?",
        ),
        ("{k} lies on the continent of {v}.", "{k} is part of {v}."),
        {
            "Canada": "North America",
            "China": "Asia",
            "France": "Europe",
            "Kenya": "Africa",
            "Norway": "Europe",
            "Peru": "South America",
            "Sydney": "Australia",
        },
    ),
    Fact(
        (
            "What is the young of a {k} called?",
            "What do we call a young {k}?",
            "Can you name the young of a {k}?",
        ),
        ("The young of a {k} is called a {v}.", "We call a young {k} a {v}."),
        {
            "bear": "cub",
            "cat": "kitten",
            "cow": "calf",
            "deer": "fawn",
            "dog": "puppy",
            "duck": "duckling",
            "frog": "tadpole",
            "goat": "kid",
            "goose": "gosling",
            "horse": "foal",
            "kangaroo": "joey",
            "pig": "piglet",
            "sheep": "lamb",
            "swan": "cygnet",
        },
    ),
    Fact(
        (
            "What is the chemical symbol for {k}?",
            "What stands for {k} in chemistry?",
            "Can you name the chemical symbol for {k}?",
        ),
        ("The chemical symbol for {k} is {v}.", "In chemistry, {k} is written {v}."),
        {
            "calcium": "Ca",
            "carbon": "C",
            "copper": "Cu",
            "gold": "Au",
            "helium": "He",
            "iron": "Fe",
            "lead": "Pb",
            "mercury": "Hg",
            "silver": "Ag",
            "sodium": "Na",
            "tin": "Sn",
            "zinc": "Zn",
        },
    ),
    Fact(
        (
            "How many sides does {k} have?",
            "What is the number of sides of {k}?",
            "Can you count the sides of {k}?",
        ),
        ("The number of sides of {k} is {v}.", "A shape such as {k} has exactly {v} sides."),
        {
            "a triangle": "three",
            "a square": "four",
            "a pentagon": "five",
            "a hexagon": "six",
            "a heptagon": "seven",
            "an octagon": "eight",
            "a nonagon": "nine",
            "a decagon": "ten",
        },
    ),
    Fact(
        (
            "Which month comes right after {k}?",
            "What is the month that follows {k}?",
            "Can you name the month after {k}?",
        ),
        ("The month right after {k} is {v}.", "The month of {k} is followed by {v}."),
        {month: MONTHS[(number + 1) % 12] for number, month in enumerate(MONTHS) if number % 3 != 1},
    ),
)

# One author, one work that nobody disputes. No titles with apostrophes, no names with initials.
WORKS = {
    "William Shakespeare": "Hamlet",
    "Jane Austen": "Pride and Prejudice",
    "Charles Dickens": "Oliver Twist",
    "Leo Tolstoy": "War and Peace",
    "Fyodor Dostoevsky": "Crime and Punishment",
    "Herman Melville": "Moby Dick",
    "Mark Twain": "The Adventures of Tom Sawyer",
    "Mary Shelley": "Frankenstein",
    "Bram Stoker": "Dracula",
    "George Orwell": "Animal Farm",
    "Aldous Huxley": "Brave New World",
    "Ernest Hemingway": "The Old Man and the Sea",
    "John Steinbeck": "The Grapes of Wrath",
    "Franz Kafka": "The Trial",
    "Thomas Mann": "The Magic Mountain",
    "Hermann Hesse": "Steppenwolf",
    "Albert Camus": "The Plague",
    "Victor Hugo": "Les Miserables",
    "Gustave Flaubert": "Madame Bovary",
    "Alexandre Dumas": "The Three Musketeers",
    "Jules Verne": "Around the World in Eighty Days",
    "Marcel Proust": "In Search of Lost Time",
    "Miguel de Cervantes": "Don Quixote",
    "Isabel Allende": "The House of the Spirits",
    "Umberto Eco": "The Name of the Rose",
    "Italo Calvino": "Invisible Cities",
    "Dante Alighieri": "The Divine Comedy",
    "Virginia Woolf": "To the Lighthouse",
    "James Joyce": "Ulysses",
    "Oscar Wilde": "The Picture of Dorian Gray",
    "Lewis Carroll": "Alice in Wonderland",
    "Daniel Defoe": "Robinson Crusoe",
    "Agatha Christie": "Murder on the Orient Express",
    "Harper Lee": "To Kill a Mockingbird",
    "Toni Morrison": "Beloved",
    "Chinua Achebe": "Things Fall Apart",
    "Haruki Murakami": "Norwegian Wood",
    "Orhan Pamuk": "My Name Is Red",
    "Arundhati Roy": "The God of Small Things",
    "Naguib Mahfouz": "Palace Walk",
    "Anton Chekhov": "The Cherry Orchard",
    "Henrik Ibsen": "Peer Gynt",
    "Samuel Beckett": "Waiting for Godot",
    "Isaac Asimov": "Foundation",
    "Joseph Conrad": "Heart of Darkness",
    "Nathaniel Hawthorne": "The Scarlet Letter",
    "Thomas Hardy": "Far from the Madding Crowd",
    "Jack London": "The Call of the Wild",
    "Mikhail Bulgakov": "The Master and Margarita",
    "Nikolai Gogol": "Dead Souls",
}
REAL_AUTHORS = (
    Fact(
        (
            "Who wrote {k}?",
            "Which author wrote {k}?",
            "Can you name the author of {k}?",
        ),
        ("{k} was written by {v}.", "The author of {k} is {v}."),
        {work: author for author, work in WORKS.items()},
    ),
    Fact(
        (
            "Which famous work did {k} write?",
            "What is a well known work by {k}?",
            "Can you name a famous work by {k}?",
        ),
        ("A famous work by {k} is {v}.", "{k} wrote the famous work {v}."),
        WORKS,
    ),
)
