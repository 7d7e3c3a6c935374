"""The nouns: persons, things in balanced genders, places, drinks; and names.

Tags of things: what can be done with them (`repair`, `clean`, `open`, ...) and what they are (`furniture`,
`goods`, `text`, `food`, `clothes`, `device`). In every tag that a pronoun sentence uses, each gender has nouns.
"""

from __future__ import annotations

from .words import Gender, Name, Noun

M: Gender = "masculine"
F: Gender = "feminine"
N: Gender = "neuter"

# fmt: off
# Tables: one word a line.
PERSONS: tuple[Noun, ...] = (
    Noun("man", "Mann", M, "Männer", ("person",), "men"),
    Noun("boy", "Junge", M, "Jungen", ("person", "small"), oblique="Jungen"),
    Noun("teacher", "Lehrer", M, "Lehrer", ("person",)),
    Noun("doctor", "Arzt", M, "Ärzte", ("person",)),
    Noun("student", "Student", M, "Studenten", ("person",), oblique="Studenten"),
    Noun("neighbor", "Nachbar", M, "Nachbarn", ("person", "related"), oblique="Nachbarn"),
    Noun("friend", "Freund", M, "Freunde", ("person", "related")),
    Noun("woman", "Frau", F, "Frauen", ("person",), "women"),
    Noun("waitress", "Kellnerin", F, "Kellnerinnen", ("person",), "waitresses"),
    Noun("actress", "Schauspielerin", F, "Schauspielerinnen", ("person",), "actresses"),
    Noun("princess", "Prinzessin", F, "Prinzessinnen", ("person",), "princesses"),
    Noun("child", "Kind", N, "Kinder", ("person", "small", "neuter person"), "children"),
    Noun("girl", "Mädchen", N, "Mädchen", ("person", "small", "neuter person")),
    Noun("father", "Vater", M, "Väter", ("person", "related", "unique")),
    Noun("brother", "Bruder", M, "Brüder", ("person", "related", "kin")),
    Noun("uncle", "Onkel", M, "Onkel", ("person", "related", "kin")),
    Noun("mother", "Mutter", F, "Mütter", ("person", "related", "unique")),
    Noun("sister", "Schwester", F, "Schwestern", ("person", "related", "kin")),
    Noun("aunt", "Tante", F, "Tanten", ("person", "related", "kin")),
)

THINGS: tuple[Noun, ...] = (
    Noun("table", "Tisch", M, "Tische", ("furniture", "repair", "clean", "carry", "colored", "heavy", "support")),
    Noun("chair", "Stuhl", M, "Stühle", ("furniture", "repair", "clean", "carry", "colored", "put", "support")),
    Noun("mirror", "Spiegel", M, "Spiegel", ("furniture", "clean", "carry", "heavy", "broken")),
    Noun("suitcase", "Koffer", M, "Koffer", ("goods", "carry", "collect", "open", "colored", "heavy", "put")),
    Noun("key", "Schlüssel", M, "Schlüssel", ("goods", "small goods", "lay")),
    Noun("umbrella", "Regenschirm", M, "Regenschirme", ("goods", "small goods", "colored", "broken", "lay")),
    Noun("letter", "Brief", M, "Briefe", ("text", "write", "send", "lay")),
    Noun("novel", "Roman", M, "Romane", ("text", "write", "translate", "lay")),
    Noun("article", "Artikel", M, "Artikel", ("text", "write", "translate")),
    Noun("cake", "Kuchen", M, "Kuchen", ("food", "sweet", "bring")),
    Noun("apple", "Apfel", M, "Äpfel", ("food", "sweet", "bring", "wash")),
    Noun("salad", "Salat", M, "Salate", ("food", "bring", "cold")),
    Noun("coat", "Mantel", M, "Mäntel", ("clothes", "wash", "colored")),
    Noun("sweater", "Pullover", M, "Pullover", ("clothes", "wash", "colored")),
    Noun("cupboard", "Schrank", M, "Schränke", ("furniture", "open", "clean", "repair", "colored", "heavy", "support")),
    Noun("computer", "Computer", M, "Computer", ("device", "repair", "collect", "send", "broken")),
    Noun("television", "Fernseher", M, "Fernseher", ("device", "repair", "collect", "heavy", "broken")),
    Noun("box", "Karton", M, "Kartons", ("open", "carry", "collect", "heavy", "put"), "boxes"),
    Noun("lamp", "Lampe", F, "Lampen", ("furniture", "device", "repair", "clean", "colored", "broken", "put")),
    Noun("clock", "Uhr", F, "Uhren", ("furniture", "repair", "collect", "broken", "send")),
    Noun("vase", "Vase", F, "Vasen", ("furniture", "clean", "carry", "colored", "broken", "put")),
    Noun("bench", "Bank", F, "Bänke", ("furniture", "repair", "clean", "carry", "colored", "heavy", "support"),
         "benches"),
    Noun("bag", "Tasche", F, "Taschen", ("goods", "carry", "collect", "open", "colored", "heavy", "put")),
    Noun("camera", "Kamera", F, "Kameras", ("goods", "device", "small goods", "repair", "collect", "send", "broken")),
    Noun("guitar", "Gitarre", F, "Gitarren", ("goods", "small goods", "repair", "lay", "collect")),
    Noun("newspaper", "Zeitung", F, "Zeitungen", ("text", "lay", "translate")),
    Noun("story", "Geschichte", F, "Geschichten", ("text", "write", "translate"), "stories"),
    Noun("postcard", "Postkarte", F, "Postkarten", ("text", "write", "send", "lay")),
    Noun("soup", "Suppe", F, "Suppen", ("food", "bring", "cold", "hot")),
    Noun("pear", "Birne", F, "Birnen", ("food", "sweet", "bring", "wash")),
    Noun("sausage", "Wurst", F, "Würste", ("food", "bring", "cold", "hot")),
    Noun("jacket", "Jacke", F, "Jacken", ("clothes", "wash", "colored")),
    Noun("blouse", "Bluse", F, "Blusen", ("clothes", "wash", "colored")),
    Noun("door", "Tür", F, "Türen", ("house part", "open", "clean", "repair", "colored", "broken", "heavy")),
    Noun("bottle", "Flasche", F, "Flaschen", ("open", "carry", "put", "broken")),
    Noun("bed", "Bett", N, "Betten", ("furniture", "repair", "carry", "heavy", "support")),
    Noun("picture", "Bild", N, "Bilder", ("furniture", "collect", "carry", "send", "colored")),
    Noun("sofa", "Sofa", N, "Sofas", ("furniture", "clean", "carry", "colored", "heavy", "support")),
    Noun("phone", "Telefon", N, "Telefone", ("goods", "device", "small goods", "repair", "collect", "broken", "lay")),
    Noun("knife", "Messer", N, "Messer", ("goods", "small goods", "clean", "lay", "send"), "knives"),
    Noun("bicycle", "Fahrrad", N, "Fahrräder", ("goods", "repair", "clean", "collect", "colored", "broken", "put")),
    Noun("book", "Buch", N, "Bücher", ("text", "write", "translate", "send", "lay", "heavy")),
    Noun("poem", "Gedicht", N, "Gedichte", ("text", "write", "translate", "send")),
    Noun("recipe", "Rezept", N, "Rezepte", ("text", "write", "translate", "lay")),
    Noun("egg", "Ei", N, "Eier", ("food", "bring")),
    Noun("sandwich", "Sandwich", N, "Sandwiches", ("food", "bring", "cold"), "sandwiches"),
    Noun("steak", "Steak", N, "Steaks", ("food", "hot", "cold", "bring")),
    Noun("shirt", "Hemd", N, "Hemden", ("clothes", "wash", "colored")),
    Noun("dress", "Kleid", N, "Kleider", ("clothes", "wash", "colored"), "dresses"),
    Noun("window", "Fenster", N, "Fenster", ("house part", "open", "clean", "repair", "broken")),
    Noun("gate", "Tor", N, "Tore", ("open", "repair", "colored", "broken", "heavy")),
    Noun("package", "Paket", N, "Pakete", ("open", "carry", "collect", "send", "heavy", "put")),
    Noun("radio", "Radio", N, "Radios", ("device", "goods", "small goods", "repair", "collect", "carry", "broken")),
)

DRINKS: tuple[Noun, ...] = (
    Noun("coffee", "Kaffee", M, "", ("drink", "hot", "cold", "with milk")),
    Noun("tea", "Tee", M, "", ("drink", "hot", "cold", "with milk")),
    Noun("juice", "Saft", M, "", ("drink", "cold", "sweet")),
    Noun("milk", "Milch", F, "", ("drink", "hot", "cold", "added")),
    Noun("lemonade", "Limonade", F, "", ("drink", "cold", "sweet")),
    Noun("water", "Wasser", N, "", ("drink", "hot", "cold")),
    Noun("beer", "Bier", N, "", ("drink", "cold")),
)

PLACES: tuple[Noun, ...] = (
    Noun("garden", "Garten", M, "Gärten", ("place", "in", "enclosed")),
    Noun("park", "Park", M, "Parks", ("place", "in", "enclosed")),
    Noun("kitchen", "Küche", F, "Küchen", ("place", "in", "enclosed")),
    Noun("city", "Stadt", F, "Städte", ("place", "in", "enclosed"), "cities"),
    Noun("school", "Schule", F, "Schulen", ("place", "in", "public", "building")),
    Noun("house", "Haus", N, "Häuser", ("place", "in", "enclosed", "building")),
    Noun("room", "Zimmer", N, "Zimmer", ("place", "in", "enclosed")),
    Noun("office", "Büro", N, "Büros", ("place", "in", "enclosed")),
    Noun("station", "Bahnhof", M, "Bahnhöfe", ("place", "at", "public", "building")),
    Noun("market", "Markt", M, "Märkte", ("place", "on", "public")),
    Noun("library", "Bibliothek", F, "Bibliotheken", ("place", "in", "public", "building"), "libraries"),
    Noun("restaurant", "Restaurant", N, "Restaurants", ("place", "in", "enclosed", "building")),
)

VEHICLES: tuple[Noun, ...] = (
    Noun("bus", "Bus", M, "Busse", ("vehicle",), "buses"),
    Noun("train", "Zug", M, "Züge", ("vehicle",)),
    Noun("tram", "Straßenbahn", F, "Straßenbahnen", ("vehicle",)),
    Noun("taxi", "Taxi", N, "Taxis", ("vehicle",)),
    Noun("ship", "Schiff", N, "Schiffe", ("vehicle",)),
)

# fmt: on

WEATHER = Noun("weather", "Wetter", N, "", ("weather",))

NAMES: tuple[Name, ...] = (
    Name("Anna", "Anna", F),
    Name("Maria", "Maria", F),
    Name("Julia", "Julia", F),
    Name("Lena", "Lena", F),
    Name("Peter", "Peter", M),
    Name("Paul", "Paul", M),
    Name("Thomas", "Thomas", M),
    Name("Felix", "Felix", M),
)

CITIES: tuple[Name, ...] = (
    Name("Berlin", "Berlin"),
    Name("Munich", "München"),
    Name("Vienna", "Wien"),
    Name("Cologne", "Köln"),
    Name("Zurich", "Zürich"),
)
