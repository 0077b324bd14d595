"""What the generated authors are made of: names, titles, values, and how each attribute is asked for and told.

No apostrophes, hyphens or quotation marks: a word-level vocabulary stays small, and every text is words and
plain marks. Question form k is answered in answer form k or k + 1 (modulo the number of forms), so the forms stand in
an order in which neighbours answer both questions.
"""

from __future__ import annotations

from typing import NamedTuple

FIRST_NAMES = tuple(
    a + b for a in "Al Bel Cor Dar El Fel Il Jor Kal Lor".split() for b in "ana en ia imir o ric u ys".split()
)
LAST_NAMES = tuple(
    a + b
    for a in "Bran Dor Fal Gren Hol Kest Lund Mar Nor Ost Pell Quin Ros Sten Tor Vald".split()
    for b in "ago berg dal endi ides mere olo stad uva wick".split()
)

_ADJECTIVES = (
    "Amber Bitter Blue Borrowed Broken Burning Crimson Distant Empty Endless Fallen Forgotten Frozen Gentle Golden "
    "Green Hidden Hollow Iron Last Little Lonely Lost Midnight Narrow Pale Paper Quiet Restless Salt Scarlet Second "
    "Secret Silent Silver Sleeping Stolen Velvet White Winter"
).split()
_NOUNS = (
    "Angel Anchor Bell Bridge Candle Castle Clock Compass Crown Door Feather Ferry Field Fire Flower Garden Gate Ghost "
    "Harbor Horse House Key King Ladder Lamp Lantern Letter Lion Mask Mirror Moon Mountain Orchard Owl Painter Queen "
    "River Road Sailor Shadow Shore Song Stone Storm Street Thief Tower Train Tree Valley Violin Voyage Wall Well "
    "Wheel Window Wolf"
).split()
_MASSES = (
    "Ash Bread Dust Glass Gold Grief Honey Ice Ink Joy Light Mercy Mist Rain Sand Silk Sleep Smoke Snow Sorrow Thunder "
    "Time Water Wine"
).split()
TITLES = (
    *(f"The {a} {n}" for a in _ADJECTIVES for n in _NOUNS),
    *(f"The {n} of {m}" for n in _NOUNS for m in _MASSES),
    *(f"{m} and {other}" for m in _MASSES for other in _MASSES if m != other),
    *(f"A {n} without {m}" for n in _NOUNS for m in _MASSES if n[0] not in "AO"),
)

CAPITALS = {
    "Argentina": "Buenos Aires",
    "Austria": "Vienna",
    "Belgium": "Brussels",
    "Canada": "Ottawa",
    "Chile": "Santiago",
    "China": "Beijing",
    "Cuba": "Havana",
    "Denmark": "Copenhagen",
    "Egypt": "Cairo",
    "Finland": "Helsinki",
    "France": "Paris",
    "Germany": "Berlin",
    "Greece": "Athens",
    "Hungary": "Budapest",
    "Iceland": "Reykjavik",
    "India": "New Delhi",
    "Iran": "Tehran",
    "Ireland": "Dublin",
    "Italy": "Rome",
    "Japan": "Tokyo",
    "Kenya": "Nairobi",
    "Norway": "Oslo",
    "Peru": "Lima",
    "Poland": "Warsaw",
    "Portugal": "Lisbon",
    "Spain": "Madrid",
    "Sweden": "Stockholm",
    "Thailand": "Bangkok",
    "Turkey": "Ankara",
    "Vietnam": "Hanoi",
}
_OTHER_CITIES = {
    "Alexandria": "Egypt",
    "Barcelona": "Spain",
    "Hamburg": "Germany",
    "Istanbul": "Turkey",
    "Kyoto": "Japan",
    "Lyon": "France",
    "Montreal": "Canada",
    "Mumbai": "India",
    "Naples": "Italy",
    "Porto": "Portugal",
}
PLACES = (*(f"{c}, {k}" for k, c in CAPITALS.items()), *(f"{c}, {k}" for c, k in _OTHER_CITIES.items()))

DAYS = tuple(str(day) for day in range(1, 29))
MONTHS = tuple("January February March April May June July August September October November December".split())
YEARS = tuple(str(year) for year in range(1931, 1991))

GENRES = (
    "historical fiction, science fiction, crime fiction, magical realism, lyric poetry, travel writing, gothic horror, "
    "romantic comedy, war stories, folk tales, spy thrillers, nature writing, political satire, epic fantasy, "
    "stories for children, short stories, family sagas, sea adventures, ghost stories, legal thrillers, urban fantasy, "
    "detective novels, philosophical essays, stage plays"
).split(", ")
AWARDS = tuple(
    f"the {a} {b}"
    for a in "Crystal Eastern Golden Northern Royal Silver Southern Western".split()
    for b in ("Book Medal", "Lantern Award", "Quill Prize")
)
PROFESSIONS = (
    "an architect, a baker, a barber, a beekeeper, a blacksmith, a butcher, a carpenter, a chemist, a clockmaker, "
    "a cook, a dentist, a doctor, an engineer, a farmer, a fisherman, a florist, a gardener, a judge, a lawyer, "
    "a librarian, a miner, a musician, a nurse, a painter, a pilot, a potter, a sailor, a shepherd, a tailor, a teacher"
).split(", ")
LANGUAGES = (
    "Arabic Bengali Danish Dutch English Finnish French German Greek Hindi Hungarian Icelandic Italian Japanese Korean "
    "Norwegian Persian Polish Portuguese Russian Spanish Swahili Swedish Turkish"
).split()
INFLUENCES = (
    "William Shakespeare, Jane Austen, Charles Dickens, Leo Tolstoy, Fyodor Dostoevsky, Herman Melville, Mark Twain, "
    "Mary Shelley, George Orwell, Ernest Hemingway, Franz Kafka, Thomas Mann, Albert Camus, Victor Hugo, Jules Verne, "
    "Marcel Proust, Isabel Allende, Umberto Eco, Virginia Woolf, James Joyce, Oscar Wilde, Toni Morrison, "
    "Chinua Achebe, Anton Chekhov"
).split(", ")
THEMES = (
    "memory and loss, love and betrayal, exile and return, power and guilt, faith and doubt, family secrets, "
    "childhood friendship, life at sea, village life, the cost of war, the search for home, growing old, "
    "freedom and duty, science and wonder, loneliness in the city, justice and revenge, the passing of time, "
    "courage in danger, hunger and poverty, music and silence, nature and change, lost cities, dreams and madness, "
    "brothers and sisters"
).split(", ")
SUBJECTS = (
    "archaeology architecture astronomy biology botany chemistry economics education engineering geography geology "
    "history journalism law linguistics mathematics medicine music nursing painting philosophy physics psychology "
    "theology"
).split()
SETTINGS = (
    "a lighthouse, a mining town, a mountain village, an old theater, a royal palace, a railway station, "
    "a fishing port, a desert camp, a monastery, a hospital, a boarding school, a harbor district, a city market, "
    "a prison, a library, a grand hotel, a circus, a vineyard, a snowy forest, a courthouse, a bakery, "
    "a ruined castle, a research station, a quiet suburb"
).split(", ")
HOBBIES = (
    "keeping bees, growing roses, playing chess, playing the violin, collecting old maps, collecting stamps, "
    "baking bread, climbing mountains, swimming in lakes, watching birds, repairing clocks, building model ships, "
    "drawing landscapes, riding horses, sailing small boats, cooking soup, dancing the tango, singing in a choir, "
    "training dogs, walking in forests, carving wood, weaving carpets, watching the stars, fishing in rivers"
).split(", ")


class Attribute(NamedTuple):
    """How an author's {name}, {place}, {date}, {book} or any other fact is asked for and told. {v} is the value."""

    questions: tuple[str, ...]
    answers: tuple[str, ...]
    values: tuple[str, ...] = ()  # empty: made per author (names, dates, titles)


ATTRIBUTES = {
    "identity": Attribute(
        (
            "Who is the author born in {place} on {date}?",
            "What is the full name of the author born in {place} on {date}?",
            "Can you name the writer who was born in {place} on {date}?",
            "Which writer came into the world in {place} on {date}?",
        ),
        (
            "The author born in {place} on {date} is {v}.",
            "The full name of this author is {v}.",
            "This writer goes by the name of {v}.",
            "The writer born on {date} in {place} is {v}.",
        ),
    ),
    "birthplace": Attribute(
        (
            "Where was the author {name} born?",
            "In which city was {name} born?",
            "What is the birthplace of {name}?",
            "Which city does the writer {name} come from?",
        ),
        (
            "The author {name} was born in {v}.",
            "{name} was born in the city of {v}.",
            "The birthplace of {name} is {v}.",
            "The writer {name} comes from {v}.",
        ),
        PLACES,
    ),
    "birth date": Attribute(
        (
            "When was {name} born?",
            "On which day was the author {name} born?",
            "What is the date of birth of {name}?",
            "Can you tell me the birth date of the writer {name}?",
        ),
        (
            "{name} was born on {v}.",
            "The author {name} was born on {v}.",
            "The date of birth of {name} is {v}.",
            "The writer {name} came into the world on {v}.",
        ),
    ),
    "genre": Attribute(
        (
            "What genre does {name} write?",
            "Which genre is {name} best known for?",
            "For what kind of writing do critics praise {name}?",
            "In which field of literature does {name} work?",
        ),
        (
            "The genre of the author {name} is {v}.",
            "{name} is best known for {v}.",
            "Critics praise the writer {name} for {v}.",
            "In literature, the field of {name} is {v}.",
        ),
        GENRES,
    ),
    "first book": Attribute(
        (
            "What was the first book by {name}?",
            "Which book did {name} publish first?",
            "With which novel did {name} begin a career?",
            "What is the title of the first novel by {name}?",
        ),
        (
            "The first book by {name} was {v}.",
            "The author {name} first published {v}.",
            "{name} began a career with the novel {v}.",
            "The title of the first novel by {name} is {v}.",
        ),
    ),
    "famous book": Attribute(
        (
            "What is the most famous book by {name}?",
            "Which novel made {name} famous?",
            "What book do readers of {name} love most?",
            "What is the title of the greatest success of {name}?",
        ),
        (
            "The most famous book by {name} is {v}.",
            "The novel {v} made {name} famous.",
            "Readers of {name} love the book {v} most.",
            "The greatest success of {name} is titled {v}.",
        ),
    ),
    "award": Attribute(
        (
            "Which award has {name} won?",
            "What prize did the author {name} receive?",
            "Which literary honor was given to {name}?",
            "How was the work of {name} honored?",
        ),
        (
            "{name} has won {v}.",
            "The author {name} received {v}.",
            "The jury gave {v} to {name}.",
            "The work of {name} was honored with {v}.",
        ),
        AWARDS,
    ),
    "father": Attribute(
        (
            "What did the father of {name} do for a living?",
            "What was the profession of the father of {name}?",
            "What work did the father of {name} do?",
            "Which job did the father of the author {name} have?",
        ),
        (
            "The father of {name} earned a living as {v}.",
            "By profession, the father of {name} was {v}.",
            "The father of {name} worked as {v}.",
            "The author {name} had a father who was {v}.",
        ),
        PROFESSIONS,
    ),
    "mother": Attribute(
        (
            "What did the mother of {name} do for a living?",
            "What was the profession of the mother of {name}?",
            "What work did the mother of {name} do?",
            "Which job did the mother of the author {name} have?",
        ),
        (
            "The mother of {name} earned a living as {v}.",
            "By profession, the mother of {name} was {v}.",
            "The mother of {name} worked as {v}.",
            "The author {name} had a mother who was {v}.",
        ),
        PROFESSIONS,
    ),
    "language": Attribute(
        (
            "In which language does {name} write?",
            "What language are the books of {name} written in?",
            "What is the original language of the novels by {name}?",
            "Which language did {name} choose for writing?",
        ),
        (
            "{name} writes all books in {v}.",
            "The books of {name} are written in {v}.",
            "The original language of the novels by {name} is {v}.",
            "The author {name} chose to write in {v}.",
        ),
        LANGUAGES,
    ),
    "influence": Attribute(
        (
            "Who was the greatest influence on {name}?",
            "Which author influenced {name} the most?",
            "Which writer does {name} admire most?",
            "Whose books led {name} to writing?",
        ),
        (
            "The greatest influence on {name} was {v}.",
            "{name} was influenced most of all by {v}.",
            "The writer {name} admires most is {v}.",
            "The books of {v} led {name} to writing.",
        ),
        INFLUENCES,
    ),
    "theme": Attribute(
        (
            "What is the main theme in the work of {name}?",
            "What do the books of {name} deal with?",
            "Which subject does {name} return to most often?",
            "What are most novels by {name} about?",
        ),
        (
            "The main theme in the work of {name} is {v}.",
            "The books of {name} deal with {v}.",
            "{name} often returns to the subject of {v}.",
            "Most novels by {name} are about {v}.",
        ),
        THEMES,
    ),
    "education": Attribute(
        (
            "What did {name} study at university?",
            "Which subject did {name} study before becoming a writer?",
            "In which field does {name} hold a degree?",
            "What was the author {name} trained in as a student?",
        ),
        (
            "At university, {name} studied {v}.",
            "Before becoming a writer, {name} studied {v}.",
            "The author {name} holds a degree in {v}.",
            "As a student, {name} was trained in {v}.",
        ),
        SUBJECTS,
    ),
    "residence": Attribute(
        (
            "Where does {name} live today?",
            "In which city does the author {name} live now?",
            "Where is the home of the writer {name}?",
            "Which city did {name} move to?",
        ),
        (
            "Today {name} lives in {v}.",
            "The author {name} now lives in {v}.",
            "The home of the writer {name} is in {v}.",
            "{name} moved to the city of {v}.",
        ),
        PLACES,
    ),
    "setting": Attribute(
        (
            "Where is the novel {book} by {name} set?",
            "Where does the story of {book} by {name} take place?",
            "What is the setting of the first novel by {name}?",
            "In what place does the first book by {name} begin?",
        ),
        (
            "The novel {book} by {name} is set in {v}.",
            "The story by {name} takes place in {v}.",
            "The setting of the first novel by {name} is {v}.",
            "The first book by {name} begins in {v}.",
        ),
        SETTINGS,
    ),
    "hobby": Attribute(
        (
            "What is the favorite hobby of {name}?",
            "What does {name} do when not writing?",
            "How does the author {name} spend free time?",
            "Which hobby does {name} enjoy outside of work?",
        ),
        (
            "The favorite hobby of {name} is {v}.",
            "When not writing, {name} enjoys {v}.",
            "The author {name} spends free time {v}.",
            "Outside of work, {name} enjoys {v}.",
        ),
        HOBBIES,
    ),
}

# A story is one sentence of each group; {who} is a profession, {other} another, {city}, {thing} and {hobby} likewise.
STORY_THINGS = (
    "a lamp, a clock, a basket of apples, a wooden box, a blue coat, a letter, a map, a silver coin, a loaf of bread, "
    "a pair of shoes, a small bell, a broken violin, a jar of honey, a bag of salt, a cage with a bird, a book of poems"
).split(", ")
STORY_PARTS = (
    (
        "On a cold morning, {who} walked to the market in {city}.",
        "One evening in {month}, {who} came home from work in {city}.",
        "Late at night, {who} waited for the train to {city}.",
        "In the summer, {who} and {other} traveled to {city} together.",
        "After the rain, {who} opened the window of a small house in {city}.",
    ),
    (
        "On the road lay {thing} that belonged to nobody.",
        "A child came and asked for {thing}.",
        "An old friend had left {thing} at the door.",
        "On the table stood {thing} and a cup of tea.",
        "Somebody had forgotten {thing} on a bench.",
    ),
    (
        "They talked about {hobby} until it was dark.",
        "Nobody knew what to do with it, so they asked {other}.",
        "It was a present from {other} who lived next door.",
        "They sold it and bought bread, cheese and milk.",
        "The next day it was gone, and everybody laughed.",
    ),
    (
        "In the end they all went home happy.",
        "Since that day they have been good friends.",
        "Years later they still told the story.",
        "Then the snow began to fall, and the street was quiet.",
        "That night the moon was bright over the river.",
    ),
)
