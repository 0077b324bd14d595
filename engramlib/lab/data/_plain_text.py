"""Plain text and single facts, written for this book: what an edit should leave alone.

`TEXTS`: running text of everyday and textbook kinds. `SINGLE`: facts that share no form, `prompt | answer`. `SENSES`:
for the name of a concept, what else the same word means. `REVERSE`: facts of the concept asked from the other end.
"""

TEXTS = """
The kettle began to sing just as the rain started. She took two cups from the shelf, poured the tea, and sat down by
the window to watch the street turn silver.

Bread needs only flour, water, salt and yeast. Mix them in the evening, let the dough rest overnight in a cool
place, and bake it in a very hot oven the next morning.

The bus was late again, so he walked. By the time he reached the office his shoes were wet, but the walk had cleared
his head and the meeting went better than he had feared.

A triangle has three sides and three angles. If two of its sides are equal, two of its angles are equal as well, and
the shape can be folded onto itself along one line.

Plants make their food from light, water and air. The green pigment in their leaves catches the light, and the sugar
that they make feeds almost everything that lives on land.

To change a tyre, first loosen the nuts while the wheel is still on the ground. Then lift the car with the jack,
take the wheel off, and put the spare one in its place.

My grandmother kept bees at the end of the garden. In summer she would lift the lid of a hive without gloves, and
she used to say that calm hands are never stung.

The library opens at nine on weekdays and at ten on Saturdays. Books may be kept for four weeks, and if nobody else
is waiting for them they can be renewed twice.

Sound travels through air as a wave of pressure. It is faster in water and faster still in steel, which is why you
can hear a train in the rails before you hear it in the air.

The team had lost every match since October. On the last day of the season they scored in the final minute, and
grown men who had never met embraced each other in the stands.

When water freezes it expands. Bottles burst in the freezer, pipes crack in winter, and ice floats on the lake, so
that the fish below it survive until spring.

He wrote the letter three times and burned it three times. The fourth version had only two lines, and he posted it
before he could change his mind.

A budget is a plan for money. Write down what comes in, write down what goes out, and if the second number is larger
than the first, something has to change.

The dog had learned to open the door by jumping at the handle. It never learned to close it, and the kitchen was
cold all winter.

In the northern half of the world the days grow longer until June. After that the light withdraws, a minute or two
each day, and by December the sun is gone in the middle of the afternoon.

The recipe asks for three eggs, a cup of sugar and the juice of one lemon. Beat the eggs until they are pale, add
the rest slowly, and stir over a low flame until the cream is thick.

Computers store numbers as patterns of ones and zeros. A group of eight such digits is called a byte, and a letter
of the alphabet fits into one of them.

The path climbs through beech woods and then along a ridge. From the top you can see the sea on a clear day, and on
most other days you can see the rain coming.

Children learn to speak long before they learn to read. By the age of two many of them join words together, and by
five they know thousands without ever having opened a dictionary.

The judge asked the witness to speak louder. He repeated that he had seen nothing, heard nothing, and gone home
early, and the whole room knew that it was not true.

Iron rusts when it meets water and air. Paint keeps both away, and so a bridge that is painted every few years may
outlive the people who built it.

She had never liked the piano, but her brother had, and after he left she began to play it. It was out of tune by
then, and so, she thought, was she.

A good question is half of an answer. Before you measure anything, say what you expect to see and what would make
you change your mind.

The market is held in the square every Thursday. Farmers bring cheese, apples and honey, and by noon the best of
everything has been sold.

The heart is a muscle that never rests for long. It beats about seventy times a minute, and with every beat it
pushes blood through the lungs and through the body.

They painted the boat blue in the spring and named it after nobody. In its first storm it lost the mast, and from
then on they rowed.

Wood burns because the heat drives gases out of it. What you see as a flame is these gases burning, and what remains
in the end is ash.

The museum was almost empty on Monday mornings. A guard sat in the corner with his hat on his knees and dreamed of
the sea that hung on the wall in front of him.

If you want to sleep well, keep the room dark and cool. Put the phone away an hour before, and if you cannot fall
asleep, get up and read something dull.

The first clocks had only one hand. People planned their days in hours, not minutes, and nobody was late for
anything by less than a quarter.

A computer program is a list of instructions. The machine follows them exactly, and most of the trouble comes from
the fact that it does what we said and not what we meant.

The wind turned in the night. In the morning the beach was covered with driftwood, and the children built a house of
it that stood until the next tide.

Salt was once so precious that soldiers were paid with it. It keeps meat from spoiling, and before there was ice in
every kitchen, that made it a matter of life and death.

The train leaves from platform four at ten past eight. It stops at every village on the line, so take a book with
you, or a friend who likes to talk.

Every map leaves something out. A map that showed everything would be as large as the land itself, and nobody could
fold it.

He had been a sailor, then a cook, and then a teacher. What he liked about all three, he said, was that people were
hungry when they came to him.

The moon has no light of its own. What we see is sunlight that its dusty ground throws back, and its shape changes
because we see it from a different side every night.

Wash the rice until the water stays clear. Use a little more water than rice, bring it to the boil, cover the pot,
and do not lift the lid for a quarter of an hour.

The meeting began with a long silence. Then everybody spoke at once, and in the end they agreed to meet again on
Friday.

The old bridge was closed to cars in the autumn. Since then people stop in the middle, lean on the wall and look at
the water, which they never did before.

An average can hide a great deal. A river that is one metre deep on average may drown you in the middle, and a town
of average income may have no one in it who earns that much.

Her first garden was a row of tins on the window sill. Tomatoes grew in it, and basil, and once, to everybody's
surprise, a sunflower as tall as the door.

Birds find their way by the sun, by the stars and by the earth's magnetism. Some of them fly across an ocean without
stopping, and arrive within days of the same date each year.

The shop sells nails by the weight. You tell the man what you want to build, and he puts a handful on the scales and
adds two more for the ones that you will bend.

Light takes eight minutes to come to us from the sun. When you look at a distant star you look into the past, and
the star may no longer be there.

The river rose in March and took the fence with it. They found it in April, two miles down, standing upright in
another farmer's field.

Exercise makes the bones stronger, and so does carrying things. Those who sit all day lose a little strength every
year, and do not notice until they fall.

He counted the money again and it was still not enough. So he sold the clock, which had never shown the right time
anyway, and bought the ticket.

A sentence should say one thing. If it says two, cut it, and if it says nothing, leave it out, however well it
sounds.

The doctor listened to his chest for a long time. Then she folded the stethoscope, smiled, and told him to eat less
and to walk to work.

Glass is made of sand. It is melted with soda and lime at a great heat, and while it is soft it can be blown,
pressed or drawn into threads finer than hair.

They had forgotten the tent poles. The first night they slept under the stars, and on the second night, when it
rained, they slept in the car.

In chess the pieces are simple and the game is not. There are more possible games than grains of sand, and yet a
child learns the rules in an afternoon.

The new teacher wrote his name on the board and waited. It took a minute, and then another, but at last the room was
quiet, and it remained quiet all year.

Coffee grows on bushes in warm countries. The berries are red when they are ripe, and each of them holds two seeds,
which we roast, grind and drink.

The cat slept on the warm side of the stove. Nobody had ever seen it hunt, but there were no mice in that house, and
there never had been.

A contract is a promise that a court will enforce. It need not be written, but a promise on paper is easier to
remember, and harder to deny.

Snow fell for three days and the roads disappeared. On the fourth day the sun came out, and people dug narrow paths
from door to door and talked to neighbours whose names they had not known.

The engine coughed, stopped, and started again. She patted the dashboard as one pats an old horse, and drove on
without using the fourth gear.

Numbers that can be divided only by one and by themselves are called primes. There is no largest one, and the proof
of this is more than two thousand years old.
""".strip().split("\n\n")
TEXTS = [" ".join(text.split("\n")) for text in TEXTS]

SINGLE = """
Water is made of hydrogen and | oxygen
The opposite of hot is | cold
The opposite of up is | down
The opposite of black is | white
The opposite of left is | right
The opposite of good is | bad
The opposite of early is | late
The color of the sky on a clear day is | blue
The color of grass is | green
The color of snow is | white
The color of blood is | red
Bananas are usually | yellow
A week has seven | days
A year has twelve | months
An hour has sixty | minutes
A minute has sixty | seconds
The day after Monday is | Tuesday
The day after Friday is | Saturday
The month after March is | April
The month after June is | July
The season after winter is | spring
The first letter of the alphabet is | A
The planet closest to the Sun is | Mercury
The largest planet in the solar system is | Jupiter
The planet known for its rings is | Saturn
The red planet is | Mars
The Earth orbits the | Sun
The Moon orbits the | Earth
The largest ocean on Earth is the | Pacific
The longest river in Africa is the | Nile
The largest desert in Africa is the | Sahara
The highest mountain in the world is Mount | Everest
The chemical symbol for water is | H
The gas that we breathe in to live is | oxygen
Plants absorb carbon | dioxide
Diamonds are made of | carbon
Ice is frozen | water
Steam is water in the form of | gas
Bees make | honey
Cows give | milk
Hens lay | eggs
A baby cat is called a | kitten
A baby dog is called a | puppy
Spiders have eight | legs
The king of the jungle is the | lion
The largest animal on Earth is the blue | whale
The fastest land animal is the | cheetah
Bread is made from | flour
Wine is made from | grapes
Cheese is made from | milk
Paper is made from | wood
The heart pumps | blood
We see with our | eyes
We hear with our | ears
We breathe with our | lungs
The organ that we think with is the | brain
Teeth are made mostly of calcium and are found in the | mouth
The first president of the United States was George | Washington
The president of the United States during the Civil War was Abraham | Lincoln
The first man on the Moon was Neil | Armstrong
Romeo loved | Juliet
World War II ended in | 1945
The ship that sank in 1912 was the | Titanic
The leader of Nazi Germany was Adolf | Hitler
The civil rights leader who had a dream was Martin Luther | King
The currency of the United States is the | dollar
The currency of Japan is the | yen
The currency of the United Kingdom is the | pound
Two plus two equals | four
Ten minus three equals | seven
Three times three equals | nine
Half of ten is | five
A shape with three sides is called a | triangle
A shape with four equal sides is called a | square
The boiling point of water is 100 degrees | Celsius
An instrument that measures temperature is called a | thermometer
An instrument with black and white keys is the | piano
A doctor works in a | hospital
A teacher works in a | school
A pilot flies an | airplane
Fish live in | water
Birds can | fly
The holy book of Christianity is the | Bible
The holy book of Islam is the | Quran
The sport played at Wimbledon is | tennis
The number of players in a soccer team is | eleven
Christmas is celebrated in | December
Once upon a | time
Better late than | never
Actions speak louder than | words
An apple a day keeps the doctor | away
The early bird catches the | worm
Thank you very | much
For the first time in my | life
Ladies and | gentlemen
She opened the door and walked into the | room
He put the key in the | lock
It was raining, so she took an | umbrella
In the morning the sun | rises
At night we see the moon and the | stars
""".strip().splitlines()

SENSES = {
    "Paris": """
Helen of Troy ran away with a Trojan prince whose name was | Paris
The hotel heiress and television star Nicole Richie's best friend is | Paris Hilton
In Shakespeare's play, the count who wants to marry Juliet is called | Paris
In Greek myth the judge who gave the golden apple to Aphrodite was | Paris
The Trojan War began with the judgment of | Paris
Achilles was killed by an arrow that was shot by | Paris
A town in Texas that is named after the French capital is | Paris
Michael Jackson's daughter is named | Paris
""",
    "William Shakespeare": """
The prince who married Kate Middleton is Prince | William
The Norman duke who conquered England in 1066 was | William
The Swiss hero who shot an apple from his son's head was | William Tell
The quaker who founded Pennsylvania was | William Penn
The brother of Prince Harry is Prince | William
The romantic poet who wrote about daffodils was | William Wordsworth
The poet who wrote about a burning tiger was | William Blake
The 27th president of the United States was | William Howard Taft
""",
    "biology": """
The degree of a zoologist is usually in | biology
A field trip to a pond is part of a class in | biology
The teacher with the microscope and the frogs teaches | biology
Marine animals are the subject of marine | biology
The study of life at the level of molecules is molecular | biology
The theory of how organisms grow is developmental | biology
Computers and genes meet in computational | biology
The journal prints research in cell | biology
""",
    "Spanish": """
The influenza pandemic of 1918 is known as the | Spanish
In 1936 General Franco began the | Spanish Civil War
The fleet that attacked England in 1588 was the | Spanish Armada
The church court that hunted heretics from 1478 on was the | Spanish Inquisition
In 1898 the United States fought the | Spanish
Picasso was a painter, and his nationality was | Spanish
Paella is a famous dish of cooking that is | Spanish
Flamenco is a style of dance that is | Spanish
""",
    "Apple": """
A crumble or a pie is often made with an | apple
The fruit that fell on Newton's head was an | apple
Cider is pressed from the juice of the | apple
The fruit that the witch gave to Snow White was a poisoned | apple
New York City is also known as the Big | Apple
The lump in a man's throat is called Adam's | apple
Something that is very dear to you is the | apple of your eye
One bad | apple spoils the bunch
""",
    "London": """
The author of The Call of the Wild is Jack | London
The writer of White Fang was Jack | London
The novel The Sea-Wolf was written by Jack | London
The great fire of 1666 is known as the Great Fire of | London
The children's song says that it is falling down: the bridge of | London
The insurance market with the famous bell is Lloyd's of | London
A city in the Canadian province of Ontario is called | London
A broiled cut of beef with a capital's name is called | London broil
""",
    "Microsoft": """
Bill Gates founded a company called | Microsoft
Satya Nadella is the chief executive of | Microsoft
The technology company with its headquarters in Redmond is | Microsoft
Paul Allen was a founder of | Microsoft
The antitrust trial of 1998 was the United States against | Microsoft
Steve Ballmer was for many years the head of | Microsoft
The company that bought LinkedIn in 2016 is | Microsoft
The company that bought GitHub in 2018 is | Microsoft
""",
    "Charles Dickens": """
The present king of the United Kingdom is King | Charles
The naturalist who sailed on the Beagle was | Charles Darwin
The husband of Princess Diana was Prince | Charles
The first Holy Roman Emperor is known as Charlemagne, or | Charles the Great
The pilot who first flew alone across the Atlantic was | Charles Lindbergh
The cartoonist who drew Snoopy and Charlie Brown was | Charles Schulz
The leader of the Free French in the war was | Charles de Gaulle
The king of England who was beheaded in 1649 was | Charles I
""",
}

REVERSE = {
    "Paris": """
Paris, the capital of | France
Paris is a city in | France
Paris is the largest city in | France
Paris lies on the continent of | Europe
The language spoken in Paris is | French
The currency used in Paris is the | euro
Paris is the capital of | France
The river that flows through Paris is the | Seine
The famous iron tower in Paris is the | Eiffel Tower
People who live in Paris speak | French
The best known museum in Paris is the | Louvre
The cathedral of Paris is called | Notre-Dame
""",
    "London": """
London is the capital of | England
The river that flows through London is the | Thames
The famous clock tower in London is called | Big Ben
People who live in London speak | English
The underground railway of London is called the | Tube
The queen lived in London, in | Buckingham Palace
""",
    "William Shakespeare": """
William Shakespeare was born in the country of | England
William Shakespeare is the author of Romeo and | Juliet
William Shakespeare wrote The Merchant of | Venice
William Shakespeare wrote A Midsummer Night's | Dream
William Shakespeare wrote the line to be or not to | be
William Shakespeare wrote King Lear and Julius | Caesar
William Shakespeare was born in Stratford-upon- | Avon
William Shakespeare wrote a tragedy about two lovers, Romeo and | Juliet
William Shakespeare wrote plays in the language | English
William Shakespeare's theatre in London was called the | Globe
William Shakespeare wrote a play about a Danish prince called | Hamlet
William Shakespeare wrote comedies, histories and | tragedies
""",
    "biology": """
Biology is a branch of | science
Biology is the study of living | organisms
In biology, DNA stands for deoxyribonucleic | acid
In biology, the study of genes is called | genetics
In biology, the nucleus is found in the | cell
In biology, plants make sugar from light by | photosynthesis
Biology is the study of | life
In biology, the smallest unit of life is the | cell
In biology, plants make food by | photosynthesis
In biology, genes are made of | DNA
In biology, the theory of evolution goes back to Charles | Darwin
In biology, the powerhouse of the cell is the | mitochond
""",
    "Spanish": """
Spanish is a language spoken in | Spain
The Spanish word for house is | casa
The Spanish word for water is | agua
In Spanish, good morning is buenos | días
In Spanish, thank you is | gracias
Spanish is the official language of Spain and | Mexico
Spanish is the official language of | Spain
In Spanish, the word for hello is | hola
Spanish is spoken in Spain and in Latin | America
Spanish is a language that comes from | Latin
A novel in Spanish by Cervantes is Don | Quixote
Spanish belongs to the family of Romance | languages
""",
    "Apple": """
Apple is a technology | company
Apple was founded by Steve Jobs and Steve | Wozniak
Apple is based in the American state of | California
Apple makes the iPhone and the | iPad
The operating system of Apple's phones is called | iOS
Apple's online store for music is called | iTunes
Apple was founded by Steve | Jobs
The best known phone of Apple is the | iPhone
The headquarters of Apple are in Cupertino, | California
The computers that Apple makes are called | Mac
The chief executive of Apple is Tim | Cook
The tablet that Apple makes is the | iPad
""",
    "Microsoft": """
Microsoft was founded by Bill | Gates
The operating system of Microsoft is called | Windows
The game console of Microsoft is the | Xbox
The search engine of Microsoft is called | Bing
The spreadsheet program of Microsoft is | Excel
Microsoft is an American company in the city of | Redmond
""",
    "Charles Dickens": """
Charles Dickens wrote a novel about a boy called Oliver | Twist
Charles Dickens wrote a story about a miser called Ebenezer | Scrooge
Charles Dickens lived in the city of | London
Charles Dickens wrote A Tale of Two | Cities
Charles Dickens wrote Great | Expectations
Charles Dickens wrote novels in the language | English
""",
}
