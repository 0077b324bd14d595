"""Facts of the world, as tables: who answers whom. Written for this book; `world` makes prompts of them.

A line of a table is `answer: subject; subject; ...`, and may go on in an indented one. A wording ends where the answer
begins.
"""

from typing import Any

RELATIONS: dict[str, dict[str, Any]] = {
    "sights": {
        "used": (
            "{} is in",
            "{} is located in the city of",
            "You can visit {} in",
            "{} is a famous sight in the city of",
            "{} is one of the best known places in",
            "{} is found in the city of",
            "{} lies in the heart of",
            "{} is a monument in",
            "{} was built in the city of",
            "Millions of people come to see {} in",
            "{} is one of the main attractions of",
            "{} is among the most visited places in the city of",
        ),
        "validation": (
            "{} stands in the city of",
            "{} is a popular tourist attraction in",
        ),
        "held_out": (
            "{} is a landmark in the city of",
            "{} is a tourist destination in the city of",
            "{} is a symbol of the city of",
        ),
        "question": "Question: In which city is {}?\nAnswer: It is in",
        "table": """
Paris: the Eiffel Tower; the Louvre; Notre-Dame Cathedral; the Arc de Triomphe; the Moulin Rouge; the
  Champs-Élysées; the Centre Pompidou; the Sorbonne; the Musée d'Orsay; the Sacré-Cœur Basilica; the Palais Garnier;
  the Place de la Concorde; the Bastille; the Luxembourg Gardens; the Tuileries Garden; Père Lachaise Cemetery;
  Montmartre; the Latin Quarter; the Pont Neuf; the Mona Lisa
London: Big Ben; Buckingham Palace; the Tower of London; Tower Bridge; Trafalgar Square; the British Museum;
  Westminster Abbey; Hyde Park; Piccadilly Circus; Wembley Stadium; St Paul's Cathedral; the Tate Modern; Covent
  Garden; 10 Downing Street; the Globe Theatre; Kensington Palace; the Shard; Oxford Street; the Royal Albert Hall;
  Scotland Yard
Rome: the Colosseum; the Trevi Fountain; the Spanish Steps; the Roman Forum; the Borghese Gallery; the Circus Maximus
New York: the Statue of Liberty; Times Square; Central Park; the Empire State Building; the Brooklyn Bridge; Wall
  Street; Broadway; Madison Square Garden; the Chrysler Building; Rockefeller Center; Carnegie Hall; Yankee Stadium
Berlin: the Brandenburg Gate; the Reichstag; Checkpoint Charlie; Museum Island; the Pergamon Museum; Alexanderplatz
Moscow: Red Square; the Kremlin; the Bolshoi Theatre; Saint Basil's Cathedral; Gorky Park; Lenin's Mausoleum
Beijing: the Forbidden City; Tiananmen Square; the Temple of Heaven; the Summer Palace
Tokyo: Shibuya Crossing; the Meiji Shrine; the Ginza district; Ueno Zoo; the Tsukiji fish market
Sydney: Bondi Beach; Darling Harbour; Taronga Zoo; the Opera House with the white sails
Athens: the Acropolis; the Parthenon; the Temple of Olympian Zeus; the Agora of Socrates
Barcelona: the Sagrada Família; Park Güell; the Camp Nou stadium; La Rambla; Casa Batlló
Madrid: the Prado Museum; the Santiago Bernabéu stadium; Puerta del Sol; the Reina Sofía Museum
Vienna: Schönbrunn Palace; the Hofburg; the Belvedere Palace; the Prater
Venice: St Mark's Square; the Rialto Bridge; the Grand Canal; the Bridge of Sighs; the Doge's Palace
Florence: the Uffizi Gallery; the Ponte Vecchio; Michelangelo's David; the Pitti Palace
Amsterdam: the Rijksmuseum; the Anne Frank House; the Van Gogh Museum; Dam Square
Prague: Charles Bridge; Wenceslas Square; the Astronomical Clock of Bohemia; the Vltava embankment
Istanbul: Hagia Sophia; the Blue Mosque; Topkapi Palace; the Grand Bazaar; the Galata Tower
Dubai: the Burj Khalifa; Palm Jumeirah; the Burj Al Arab
Washington: the White House; the Lincoln Memorial; the Smithsonian Institution; Capitol Hill; the Library of Congress
San Francisco: the Golden Gate Bridge; Alcatraz; Fisherman's Wharf; Lombard Street; the Painted Ladies
Los Angeles: Hollywood; the Hollywood Walk of Fame; the Griffith Observatory; Sunset Boulevard; the Getty Center
Chicago: the Willis Tower; Millennium Park; Wrigley Field; Navy Pier; the Sears Tower
Boston: Fenway Park; Faneuil Hall; the Freedom Trail; Beacon Hill
Seattle: the Space Needle; Pike Place Market; the Museum of Pop Culture
Toronto: the CN Tower; the Royal Ontario Museum; Casa Loma
Rio de Janeiro: Christ the Redeemer; Copacabana Beach; Sugarloaf Mountain; Ipanema Beach; the Maracanã stadium
Edinburgh: Arthur's Seat; the Royal Mile; Holyrood Palace
Dublin: Trinity College; Temple Bar; the Guinness Storehouse; Croke Park
Brussels: the Atomium; Manneken Pis; the Grand-Place
Copenhagen: the Little Mermaid statue; Tivoli Gardens; Nyhavn
Munich: Marienplatz; the Oktoberfest; the Allianz Arena; the English Garden of Bavaria
Milan: La Scala; the San Siro stadium; the Last Supper of Leonardo
Agra: the Taj Mahal
Jerusalem: the Western Wall; the Church of the Holy Sepulchre; the Dome of the Rock; the Temple Mount
Las Vegas: the Bellagio; Caesars Palace; the MGM Grand
Singapore: Marina Bay Sands; the Merlion; Raffles Hotel; Changi Airport
Bangkok: Wat Arun; the Chao Phraya river ferry; Khao San Road
Kyoto: the Golden Pavilion; Kiyomizu-dera; the Gion district
Stockholm: the Vasa Museum; Gamla Stan; the Nobel Prize ceremony
Cairo: the Egyptian Museum; the Khan el-Khalili bazaar; Tahrir Square
Mexico City: the Zócalo; Chapultepec Park; the Frida Kahlo Museum
Lisbon: Belém Tower; the Jerónimos Monastery; the Alfama district
Budapest: the Széchenyi thermal bath; Buda Castle; Fisherman's Bastion
""",
    },
    "capitals": {
        "used": (
            "The capital of {} is",
            "The capital city of {} is",
            "The government of {} sits in the city of",
            "The national parliament of {} meets in",
            "The capital of {}, a country, is",
            "The largest city and capital of {} is",
            "The prime minister of {} works in",
            "Embassies in {} are found in the capital,",
            "The national museum of {} is in",
            "The king or president of {} lives in the city of",
        ),
        "validation": (
            "The president of {} lives in the capital,",
            "The capital of {} is the city of",
        ),
        "held_out": (
            "The name of the capital of {} is",
            "The capital of {} is called",
            "The government buildings of {} are in the capital,",
        ),
        "question": "Question: What is the capital of {}?\nAnswer: The capital is",
        "table": """
Paris: France
London: England; the United Kingdom; Great Britain
Rome: Italy
Berlin: Germany
Madrid: Spain
Lisbon: Portugal
Vienna: Austria
Athens: Greece
Moscow: Russia
Beijing: China
Tokyo: Japan
Cairo: Egypt
Ottawa: Canada
Canberra: Australia
Brasília: Brazil
Buenos Aires: Argentina
Santiago: Chile
Lima: Peru
Bogotá: Colombia
Mexico City: Mexico
Havana: Cuba
Caracas: Venezuela
Dublin: Ireland
Edinburgh: Scotland
Brussels: Belgium
Amsterdam: the Netherlands
Copenhagen: Denmark
Oslo: Norway
Stockholm: Sweden
Helsinki: Finland
Warsaw: Poland
Prague: the Czech Republic
Budapest: Hungary
Bucharest: Romania
Sofia: Bulgaria
Kiev: Ukraine
Ankara: Turkey
Tehran: Iran
Baghdad: Iraq
Riyadh: Saudi Arabia
Jerusalem: Israel
Damascus: Syria
New Delhi: India
Islamabad: Pakistan
Kabul: Afghanistan
Dhaka: Bangladesh
Kathmandu: Nepal
Bangkok: Thailand
Hanoi: Vietnam
Manila: the Philippines
Jakarta: Indonesia
Seoul: South Korea
Nairobi: Kenya
Addis Ababa: Ethiopia
Pretoria: South Africa
Accra: Ghana
Rabat: Morocco
Algiers: Algeria
Tunis: Tunisia
Tripoli: Libya
Wellington: New Zealand
Reykjavik: Iceland
Bern: Switzerland
Belgrade: Serbia
Zagreb: Croatia
""",
    },
    "authors": {
        "used": (
            "The famous work {} was written by",
            "We read {}, a masterpiece by",
            "I am reading {} by",
            "In school we read {} by",
            "The literary work {} was written by the author",
            "The famous play or novel {} was written by",
            "The well-known work {} was created by",
            "We saw {}, a work by",
            "My favourite book is {} by",
            "{} is a play by",
            "The classic {} was written by",
        ),
        "validation": (
            "The great work {} was written by",
            "They read {}, a classic by",
        ),
        "held_out": (
            "The masterpiece {} was written by",
            "She is reading {}, a great work by",
            "We studied {}, a famous work by",
        ),
        "question": "Question: Who wrote {}?\nAnswer: It was written by",
        "table": """
William Shakespeare: Hamlet; Macbeth; Romeo and Juliet; Othello; King Lear; The Tempest; A Midsummer Night's Dream;
  Julius Caesar; The Merchant of Venice; Twelfth Night; Much Ado About Nothing; As You Like It; Richard III; Henry
  V; The Taming of the Shrew; Antony and Cleopatra; The Winter's Tale; Coriolanus; The Comedy of Errors; Measure for
  Measure
Charles Dickens: Oliver Twist; A Tale of Two Cities; Great Expectations; David Copperfield; A Christmas Carol; Bleak
  House; Hard Times; Little Dorrit; The Pickwick Papers; Nicholas Nickleby; Our Mutual Friend; Dombey and Son
Jane Austen: Pride and Prejudice; Emma; Sense and Sensibility; Mansfield Park; Persuasion; Northanger Abbey
Mark Twain: The Adventures of Tom Sawyer; Adventures of Huckleberry Finn; The Prince and the Pauper
Leo Tolstoy: War and Peace; Anna Karenina; The Death of Ivan Ilyich
Fyodor Dostoevsky: Crime and Punishment; The Brothers Karamazov; The Idiot; Notes from Underground
George Orwell: Nineteen Eighty-Four; Animal Farm; Homage to Catalonia
J.K. Rowling: Harry Potter and the Philosopher's Stone; Harry Potter and the Goblet of Fire
J.R.R. Tolkien: The Hobbit; The Lord of the Rings; The Silmarillion
Ernest Hemingway: The Old Man and the Sea; A Farewell to Arms; For Whom the Bell Tolls; The Sun Also Rises
F. Scott Fitzgerald: The Great Gatsby; Tender Is the Night
Herman Melville: Moby-Dick; Bartleby, the Scrivener; Billy Budd
Homer: The Odyssey; The Iliad
Dante Alighieri: The Divine Comedy; Inferno
Johann Wolfgang von Goethe: Faust; The Sorrows of Young Werther
Miguel de Cervantes: Don Quixote
Victor Hugo: Les Misérables; The Hunchback of Notre-Dame
Mary Shelley: Frankenstein
Bram Stoker: Dracula
Plato: The Republic; The Symposium; The Apology of Socrates
Charles Darwin: On the Origin of Species; The Descent of Man
Geoffrey Chaucer: The Canterbury Tales
Oscar Wilde: The Picture of Dorian Gray; The Importance of Being Earnest
Lewis Carroll: Alice's Adventures in Wonderland; Through the Looking-Glass; Jabberwocky
Harper Lee: To Kill a Mockingbird
J.D. Salinger: The Catcher in the Rye
Aldous Huxley: Brave New World
Franz Kafka: The Metamorphosis; The Trial; The Castle
John Milton: Paradise Lost; Samson Agonistes
Emily Brontë: Wuthering Heights
Charlotte Brontë: Jane Eyre; Villette
Daniel Defoe: Robinson Crusoe; Moll Flanders
Jonathan Swift: Gulliver's Travels; A Modest Proposal
Robert Louis Stevenson: Treasure Island; The Strange Case of Dr Jekyll and Mr Hyde; Kidnapped
H.G. Wells: The Time Machine; The War of the Worlds; The Invisible Man
Jules Verne: Twenty Thousand Leagues Under the Sea; Around the World in Eighty Days; Journey to the Center of the
  Earth
Arthur Conan Doyle: The Hound of the Baskervilles; A Study in Scarlet; The Sign of the Four
Agatha Christie: Murder on the Orient Express; Death on the Nile; And Then There Were None
James Joyce: Ulysses; Dubliners; Finnegans Wake
Virgil: The Aeneid; The Georgics
Stephen King: The Shining; Carrie; Misery
C.S. Lewis: The Lion, the Witch and the Wardrobe; The Screwtape Letters
Virginia Woolf: Mrs Dalloway; To the Lighthouse; A Room of One's Own
John Steinbeck: The Grapes of Wrath; Of Mice and Men; East of Eden
Nathaniel Hawthorne: The Scarlet Letter; The House of the Seven Gables
Henry David Thoreau: Walden; Civil Disobedience
Edgar Allan Poe: The Raven; The Fall of the House of Usher; The Tell-Tale Heart
Sophocles: Oedipus Rex; Antigone
Gabriel García Márquez: One Hundred Years of Solitude; Love in the Time of Cholera
Niccolò Machiavelli: The Prince
Adam Smith: The Wealth of Nations
Karl Marx: Das Kapital; The Communist Manifesto
Isaac Newton: Principia Mathematica; Opticks
""",
    },
    "languages": {
        "used": (
            "The official language of {} is",
            "In {}, the main language is",
            "Most people in {} speak",
            "The main language of {} is",
            "In {}, people speak",
            "The common language of {} is",
            "The majority of people in {} speak",
            "The population of {} speaks",
            "The spoken language in {} is",
            "The inhabitants of {} speak",
            "In the schools of {}, lessons are held in",
        ),
        "validation": (
            "The national language of {} is",
            "The people of {} speak",
        ),
        "held_out": (
            "The most widely spoken language in {} is",
            "The primary language of {} is",
            "In {} almost everybody speaks",
        ),
        "question": "Question: Which language is spoken in {}?\nAnswer: People there speak",
        "table": """
Spanish: Mexico; Argentina; Spain; Chile; Peru; Colombia; Cuba; Venezuela; Ecuador; Bolivia; Uruguay; Paraguay;
  Guatemala; Costa Rica; Panama; Honduras; Nicaragua; El Salvador; the Dominican Republic; Puerto Rico
French: France; Senegal; Haiti; Quebec; Ivory Coast; Cameroon; Monaco; Gabon; Mali
English: England; the United States; Australia; New Zealand; Jamaica; Nigeria; Ghana; Barbados
German: Germany; Austria; Liechtenstein; Bavaria; Berlin; Hamburg
Portuguese: Brazil; Portugal; Angola; Mozambique; Cape Verde
Arabic: Egypt; Saudi Arabia; Iraq; Jordan; Syria; Lebanon; Yemen; Kuwait; Qatar; Oman; Libya; Morocco; Algeria
Russian: Russia; Moscow; Siberia
Italian: Italy; San Marino; Tuscany; Sicily
Japanese: Japan; Tokyo; Osaka
Korean: South Korea; North Korea; Seoul
Greek: Greece; Cyprus; Crete
Turkish: Turkey; Ankara
Polish: Poland; Warsaw
Dutch: the Netherlands; Amsterdam; Suriname
Swedish: Sweden; Stockholm
Norwegian: Norway; Oslo
Danish: Denmark; Copenhagen
Finnish: Finland; Helsinki
Hungarian: Hungary; Budapest
Czech: the Czech Republic; Prague
Romanian: Romania; Moldova; Bucharest
Bulgarian: Bulgaria; Sofia
Thai: Thailand; Bangkok
Vietnamese: Vietnam; Hanoi
Hindi: India; Delhi
Persian: Iran; Tehran
Hebrew: Israel; Tel Aviv
Swahili: Kenya; Tanzania
Ukrainian: Ukraine; Kiev
Chinese: China; Beijing; Taiwan; Shanghai
Indonesian: Indonesia; Jakarta
Icelandic: Iceland
Nepali: Nepal
Urdu: Pakistan
Bengali: Bangladesh
Croatian: Croatia
Serbian: Serbia
""",
    },
    "makers": {
        "used": (
            "{} is made by",
            "Question: Who makes {}?\nAnswer: It is made by",
            "Question: Which company sells {}?\nAnswer: It is sold by",
            "{} is manufactured by",
            "{} was created by",
            "The product {} is made by",
            "The company behind {} is",
            "{} was launched by",
            "{} is developed by",
            "Question: Who produces {}?\nAnswer: It is produced by",
            "Question: Which company created {}?\nAnswer: It was created by",
        ),
        "validation": (
            "{} is produced by",
            "Question: Who manufactures {}?\nAnswer: It is manufactured by",
        ),
        "held_out": (
            "{} is a product made by",
            "{} was introduced by",
            "Question: Which company produces {}?\nAnswer: It is produced by",
        ),
        "question": "Question: Which brand is {}?\nAnswer: The brand is",
        "table": """
Apple: the iPhone; the iPad; the MacBook; the iMac; the iPod; Siri; iTunes; iOS; macOS; AirPods; the Macintosh;
  iCloud; the Safari browser; the App Store; FaceTime; the MacBook Pro; the MacBook Air; iMessage; GarageBand; Final
  Cut Pro
Microsoft: Windows; the Xbox; Microsoft Word; Excel; PowerPoint; Internet Explorer; Windows 10; the Xbox 360; Azure;
  Outlook; Visual Studio; the Surface tablet; Windows XP; Bing; OneDrive; the Kinect; MS-DOS; Halo; the Xbox One;
  Microsoft Teams
Google: Android; Gmail; the Chrome browser; the Pixel phone; Google Maps; YouTube; Google Docs; Chromebook software
Sony: the PlayStation; the Walkman; the PlayStation 4; Bravia televisions; the PlayStation 2
Samsung: the Galaxy phone; the Galaxy S8; the Galaxy Note; the Galaxy Tab
Nintendo: the Game Boy; Super Mario; the Wii; Zelda; the Switch console; Pokémon games; the Nintendo 64
Toyota: the Corolla; the Prius; the Camry; the Land Cruiser; Lexus cars
Honda: the Civic; the Accord; Acura cars; the CR-V
Ford: the Mustang; the Model T; the F-150; the Focus car; the Fiesta
Chevrolet: the Corvette; the Camaro; the Silverado; the Malibu; the Impala
Nissan: the Altima; the Leaf car; the Sentra; the Pathfinder
Volkswagen: the Beetle car; the Golf; the Passat; the Jetta
BMW: the Mini Cooper; the 3 Series; the X5; the M3
Tesla: the Model S; the Model 3; the Cybertruck; the Powerwall
Amazon: the Kindle; Alexa; the Echo speaker; Prime Video; the Fire TV
Facebook: Instagram; WhatsApp; Messenger; the News Feed
Adobe: Photoshop; Illustrator; Acrobat Reader; Lightroom; InDesign; Premiere Pro
IBM: the ThinkPad; the Watson computer; the Deep Blue chess computer; OS/2; the mainframe System/360
Intel: the Pentium; the Core i7; the Xeon processor; the 8086 processor
Boeing: the 747; the 737; the Dreamliner; the 777
Airbus: the A320; the A380; the A350
Nike: Air Jordan; the Air Max; the Dunk shoe; the Air Force 1
Coca-Cola: Coke; Sprite; Fanta; Diet Coke
Disney: Mickey Mouse; Frozen; the Lion King; Donald Duck; Disneyland
Tencent: WeChat; QQ
Pfizer: Viagra; Lipitor; Zoloft
Mattel: Barbie; Hot Wheels; the Fisher-Price toys
Kellogg's: Corn Flakes; Frosted Flakes; Rice Krispies; Froot Loops
Procter & Gamble: Gillette razors; Pampers; Tide detergent; Oral-B
Nestlé: KitKat; Nescafé; Nesquik
Netflix: Stranger Things; House of Cards; The Crown
Lego: the Mindstorms robots; Duplo; the Technic bricks
Ferrari: the Testarossa; the Enzo; the F40
Porsche: the 911; the Cayenne; the Boxster
Mercedes-Benz: the S-Class; the G-Wagon; the C-Class
Oracle: Java; MySQL; Solaris
Nokia: the 3310 phone; the Lumia phone; Symbian phones
""",
    },
    "fields": {
        "used": (
            "The topic of {} belongs to the field of",
            "The study of {} is a branch of",
            "A class on {} is a class in",
            "The problem of {} is a problem of the field of",
            "Scholars of {} work in the field of",
            "The theory of {} comes from the field of",
            "The topic of {} is a part of",
            "The science that explains {} is",
            "{} is an important topic in",
            "Scientists who study {} work in",
            "The chapter on {} is found in a textbook of",
        ),
        "validation": (
            "The idea of {} is central to the field of",
            "The topic of {} is taught in courses on",
        ),
        "held_out": (
            "Research on {} is done in the field of",
            "Experts on {} have a degree in",
            "A professor who teaches {} is a professor of",
        ),
        "question": "Question: In which field is {} studied?\nAnswer: It is studied in the field of",
        "table": """
biology: photosynthesis; mitosis; the cell membrane; natural selection; DNA replication; genetics; evolution; the
  cell nucleus; chromosomes; meiosis; bacteria; cell division; the food chain; enzymes; the circulatory system;
  mitochondria; ecosystems; plant reproduction; the species concept; heredity
chemistry: the periodic table; chemical bonds; acids and bases; oxidation; the mole; covalent bonding; chemical
  reactions; molecules; ionic compounds; catalysts; the pH scale; organic compounds; titration; reaction rates;
  polymers; electrolysis; stoichiometry; chemical equilibrium; noble gases; isomers
physics: gravity; quantum mechanics; Newton's laws of motion; electromagnetism; relativity; kinetic energy;
  momentum; the speed of light; thermodynamics; friction; nuclear fission; optics; sound waves; particle
  accelerators; the Higgs boson; string theory
mathematics: prime numbers; the Pythagorean theorem; calculus; algebra; geometry; fractions; matrices; probability;
  differential equations; set theory; topology; integrals
economics: supply and demand; inflation; opportunity cost; market equilibrium; monetary policy; gross domestic
  product; comparative advantage; elasticity of demand; monopolies
psychology: cognitive dissonance; classical conditioning; personality disorders; the unconscious mind; operant
  conditioning; attachment theory; emotional intelligence; memory and attention
astronomy: black holes; galaxies; the solar system; planets and stars; supernovae; the Big Bang; exoplanets; the
  Milky Way; comets
geology: plate tectonics; volcanic rocks; earthquakes and faults; minerals; sedimentary rocks; fossils and strata;
  glaciers
philosophy: the categorical imperative; existentialism; free will; Plato's cave; ethics and morality;
  utilitarianism; metaphysics
linguistics: phonemes; syntax and morphology; the origin of languages; grammar and semantics; dialects
computer science: algorithms; data structures; sorting and searching; compilers; databases; artificial intelligence;
  operating systems
music: the major scale; chords and harmony; counterpoint; rhythm and melody; symphonies
law: contracts and torts; the jury trial; habeas corpus; criminal liability; property rights
history: the French Revolution; the Roman Empire; the Cold War; the Industrial Revolution; the Middle Ages; the
  Civil War
art: perspective drawing; Impressionism; the color wheel; Cubism; sculpture and painting
statistics: regression analysis; hypothesis testing; standard deviation; confidence intervals; sampling
sociology: social stratification; deviance and norms; social class; urbanization and family
medicine: the diagnosis of cancer; surgery; vaccines and antibiotics; heart disease
""",
    },
    "continents": {
        "used": ("{} is a country in", "{} lies on the continent of", "If you travel to {}, you are in"),
        "validation": ("{} is a nation in",),
        "held_out": ("The country {} is located in", "On a world map, {} is found in"),
        "table": """
Europe: Germany; Poland; Norway; Switzerland; Austria; Belgium; Romania; Greece; Portugal; Hungary
Africa: Kenya; Nigeria; Ghana; Ethiopia; Uganda; Zambia; Senegal; Tanzania; Mali; Zimbabwe
Asia: Japan; Vietnam; Thailand; Nepal; Mongolia; India; Bangladesh; Cambodia; Laos; China
South America: Brazil; Peru; Bolivia; Chile; Paraguay; Uruguay; Ecuador; Colombia
North America: Canada; Mexico; the United States
""",
    },
    "inventors": {
        "used": ("{} was invented by", "The inventor of {} was", "{} was discovered or invented by"),
        "validation": ("The person who came up with {} was",),
        "held_out": ("We owe {} to", "{} is the work of"),
        "table": """
Alexander Graham Bell: the telephone
Thomas Edison: the phonograph; the light bulb
Johannes Gutenberg: the printing press
Albert Einstein: the theory of relativity; the equation E = mc²; general relativity
Isaac Newton: the law of universal gravitation; the laws of motion
Charles Darwin: the theory of evolution; natural selection as an idea
Alfred Nobel: dynamite
Louis Pasteur: pasteurization; the rabies vaccine
Alexander Fleming: penicillin
Galileo Galilei: the moons of Jupiter as a discovery; the astronomical telescope
James Watt: the improved steam engine
Samuel Morse: Morse code
Marie Curie: radium; polonium
Dmitri Mendeleev: the periodic table of elements
Tim Berners-Lee: the World Wide Web
Leonardo da Vinci: the painting of the Mona Lisa; the Last Supper fresco
Sigmund Freud: psychoanalysis
Gregor Mendel: the laws of inheritance
Nikola Tesla: the alternating current motor
Guglielmo Marconi: radio telegraphy
Eli Whitney: the cotton gin
Karl Benz: the first automobile with a petrol engine
""",
    },
}
