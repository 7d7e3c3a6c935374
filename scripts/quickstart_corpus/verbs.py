"""The verbs, by the company they keep."""

from __future__ import annotations

from .words import Modal, Verb

# fmt: off
# Tables: one word a line where it fits.
BE = Verb("be", "was", "been", "sein", "ist", "gewesen", "sein", stative=True, tenses=("present", "past", "future"),
          preterite="war", present=("bin", "ist", "sind"), english_third="is")
HAVE = Verb("have", "had", "had", "haben", "hat", "gehabt", objects=("furniture", "goods", "clothes", "text", "device"),
            stative=True, tenses=("present", "past"), preterite="hatte", english_third="has")
BELONG = Verb("belong", "belonged", "belonged", "gehören", "gehört", "gehört", tail="to", object_case="dative",
              objects=("person",), stative=True, tenses=("present",))

THING_VERBS: tuple[Verb, ...] = (
    HAVE,
    Verb("buy", "bought", "bought", "kaufen", "kauft", "gekauft",
         objects=("furniture", "goods", "text", "food", "clothes", "device")),
    Verb("sell", "sold", "sold", "verkaufen", "verkauft", "verkauft",
         objects=("furniture", "goods", "text", "clothes", "device")),
    Verb("find", "found", "found", "finden", "findet", "gefunden", objects=("goods", "text", "clothes"),
         tenses=("past", "perfect", "future")),
    Verb("look", "looked", "looked", "suchen", "sucht", "gesucht", tail="for", definite=True,
         objects=("goods", "text", "clothes"),
         tenses=("present", "past", "future")),
    Verb("lose", "lost", "lost", "verlieren", "verliert", "verloren", definite=True,
         objects=("small goods", "clothes", "text"),
         tenses=("past", "perfect")),
    Verb("forget", "forgot", "forgotten", "vergessen", "vergisst", "vergessen", definite=True,
         objects=("goods", "clothes", "text"),
         tenses=("past", "perfect"), progressive="forgetting"),
    Verb("need", "needed", "needed", "brauchen", "braucht", "gebraucht", stative=True,
         objects=("furniture", "goods", "text", "clothes", "device"), tenses=("present", "past", "future")),
    Verb("see", "saw", "seen", "sehen", "sieht", "gesehen", stative=True, tenses=("past", "perfect"),
         objects=("furniture", "goods", "text", "clothes", "device", "person")),
    Verb("like", "liked", "liked", "mögen", "mag", "gemocht", definite=True,
         objects=("furniture", "clothes", "text", "food", "person"),
         stative=True, tenses=("present",), present=("mag", "mag", "mögen")),
    Verb("repair", "repaired", "repaired", "reparieren", "repariert", "repariert", definite=True, objects=("repair",)),
    Verb("clean", "cleaned", "cleaned", "putzen", "putzt", "geputzt", definite=True, objects=("clean",)),
    Verb("carry", "carried", "carried", "tragen", "trägt", "getragen", objects=("carry",)),
    Verb("wash", "washed", "washed", "waschen", "wäscht", "gewaschen", definite=True, objects=("wash",)),
    Verb("read", "read", "read", "lesen", "liest", "gelesen", objects=("text",)),
    Verb("write", "wrote", "written", "schreiben", "schreibt", "geschrieben", objects=("write",)),
    Verb("understand", "understood", "understood", "verstehen", "versteht", "verstanden", definite=True,
         objects=("text",),
         stative=True, tenses=("present", "past")),
    Verb("translate", "translated", "translated", "übersetzen", "übersetzt", "übersetzt", objects=("translate",)),
    Verb("eat", "ate", "eaten", "essen", "isst", "gegessen", objects=("food",)),
    Verb("order", "ordered", "ordered", "bestellen", "bestellt", "bestellt",
         objects=("food", "furniture", "clothes", "device")),
    Verb("pay", "paid", "paid", "bezahlen", "bezahlt", "bezahlt", tail="for",
         definite=True, objects=("food", "furniture", "clothes", "device")),
    Verb("look", "looked", "looked", "sehen", "sieht", "angesehen", tail="at", particle="an",
         definite=True, objects=("furniture", "clothes", "goods")),
    Verb("open", "opened", "opened", "machen", "macht", "aufgemacht", particle="auf", definite=True, objects=("open",)),
    Verb("close", "closed", "closed", "machen", "macht", "zugemacht", particle="zu", definite=True, objects=("open",)),
    Verb("turn", "turned", "turned", "schalten", "schaltet", "eingeschaltet", particle="ein", floating="on",
         definite=True, objects=("device",)),
    Verb("turn", "turned", "turned", "schalten", "schaltet", "ausgeschaltet", particle="aus", floating="off",
         definite=True, objects=("device",)),
    Verb("put", "put", "put", "ziehen", "zieht", "angezogen", particle="an", floating="on", objects=("clothes",),
         progressive="putting"),
    Verb("take", "took", "taken", "ziehen", "zieht", "ausgezogen", particle="aus", floating="off",
         definite=True, objects=("clothes",)),
    Verb("pick", "picked", "picked", "holen", "holt", "abgeholt", particle="ab", floating="up",
         definite=True, objects=("collect", "person")),
    Verb("bring", "brought", "brought", "bringen", "bringt", "mitgebracht", particle="mit", floating="along",
         objects=("bring", "text", "small goods")),
    Verb("throw", "threw", "thrown", "werfen", "wirft", "weggeworfen", particle="weg", floating="away",
         definite=True, objects=("furniture", "text", "clothes", "food")),
)

PERSON_VERBS: tuple[Verb, ...] = (
    Verb("visit", "visited", "visited", "besuchen", "besucht", "besucht", objects=("person",)),
    Verb("meet", "met", "met", "treffen", "trifft", "getroffen", objects=("person",)),
    Verb("know", "knew", "known", "kennen", "kennt", "gekannt", objects=("person",), stative=True,
         tenses=("present",)),
    Verb("love", "loved", "loved", "lieben", "liebt", "geliebt", objects=("person",), stative=True,
         tenses=("present",)),
    Verb("call", "called", "called", "rufen", "ruft", "angerufen", particle="an", objects=("person",)),
    Verb("invite", "invited", "invited", "laden", "lädt", "eingeladen", particle="ein", objects=("person",)),
    Verb("help", "helped", "helped", "helfen", "hilft", "geholfen", objects=("person",), object_case="dative"),
    Verb("thank", "thanked", "thanked", "danken", "dankt", "gedankt", objects=("person",), object_case="dative"),
    Verb("listen", "listened", "listened", "hören", "hört", "zugehört", tail="to", particle="zu",
         objects=("person",), object_case="dative"),
)

RECIPIENT_VERBS: tuple[Verb, ...] = (
    Verb("give", "gave", "given", "geben", "gibt", "gegeben", objects=("goods", "text", "food", "clothes")),
    Verb("show", "showed", "shown", "zeigen", "zeigt", "gezeigt",
         objects=("furniture", "goods", "text", "clothes", "device")),
    Verb("send", "sent", "sent", "schicken", "schickt", "geschickt", objects=("send",)),
    Verb("read", "read", "read", "lesen", "liest", "vorgelesen", particle="vor", to_recipient=True, objects=("text",)),
)

DRINK = Verb("drink", "drank", "drunk", "trinken", "trinkt", "getrunken", objects=("drink",))

ACTIVITY_VERBS: tuple[Verb, ...] = (
    Verb("sleep", "slept", "slept", "schlafen", "schläft", "geschlafen"),
    Verb("laugh", "laughed", "laughed", "lachen", "lacht", "gelacht"),
    Verb("work", "worked", "worked", "arbeiten", "arbeitet", "gearbeitet"),
    Verb("dance", "danced", "danced", "tanzen", "tanzt", "getanzt"),
    Verb("sing", "sang", "sung", "singen", "singt", "gesungen"),
    Verb("sit", "sat", "sat", "sitzen", "sitzt", "gesessen", tenses=("present", "past"), progressive="sitting"),
    Verb("shop", "shopped", "shopped", "kaufen", "kauft", "eingekauft", particle="ein", progressive="shopping"),
    Verb("watch", "watched", "watched", "sehen", "sieht", "ferngesehen", particle="fern", tail="TV"),
    Verb("fall", "fell", "fallen", "schlafen", "schläft", "eingeschlafen", "sein", particle="ein", tail="asleep"),
    Verb("get", "got", "gotten", "stehen", "steht", "aufgestanden", "sein", particle="auf", tail="up",
         progressive="getting"),
)
"""Used alone, those of WITH_PLACE also with a place."""

WITH_PLACE = ("sleep", "work", "dance", "sing", "sit", "shop", "fall")

PLAY = Verb("play", "played", "played", "spielen", "spielt", "gespielt")
WAIT = Verb("wait", "waited", "waited", "warten", "wartet", "gewartet")
LIVE = Verb("live", "lived", "lived", "wohnen", "wohnt", "gewohnt", stative=True, tenses=("present",))
STAY = Verb("stay", "stayed", "stayed", "bleiben", "bleibt", "geblieben", "sein")

TRAVEL = Verb("travel", "traveled", "traveled", "reisen", "reist", "gereist", "sein")
ARRIVE = Verb("arrive", "arrived", "arrived", "kommen", "kommt", "angekommen", "sein", particle="an")
MOTION_VERBS: tuple[Verb, ...] = (
    Verb("go", "went", "gone", "gehen", "geht", "gegangen", "sein", english_third="goes"),
    Verb("run", "ran", "run", "laufen", "läuft", "gelaufen", "sein", progressive="running"),
    Verb("come", "came", "come", "kommen", "kommt", "gekommen", "sein"),
    Verb("come", "came", "come", "kommen", "kommt", "zurückgekommen", "sein", particle="zurück", tail="back"),
)

PUT = Verb("put", "put", "put", "stellen", "stellt", "gestellt", objects=("put",), progressive="putting")
LAY = Verb("lay", "laid", "laid", "legen", "legt", "gelegt", objects=("lay",))
STAND = Verb("stand", "stood", "stood", "stehen", "steht", "gestanden", objects=("put",), stative=True,
             tenses=("present",))
LIE = Verb("lie", "lay", "lain", "liegen", "liegt", "gelegen", objects=("lay",), stative=True, tenses=("present",),
           progressive="lying")

SAY = Verb("say", "said", "said", "sagen", "sagt", "gesagt", stative=True, tenses=("present", "past"))
THINK = Verb("think", "thought", "thought", "glauben", "glaubt", "geglaubt", stative=True, tenses=("present",))
KNOW = Verb("know", "knew", "known", "wissen", "weiß", "gewusst", stative=True, tenses=("present",),
            present=("weiß", "weiß", "wissen"))
HOPE = Verb("hope", "hoped", "hoped", "hoffen", "hofft", "gehofft", stative=True, tenses=("present",))

CAN = Modal(("can", "can", "can"), ("cannot", "cannot", "cannot"), ("kann", "kann", "können"), "present")
SHOULD = Modal(("should", "should", "should"), ("should not", "should not", "should not"),
               ("sollte", "sollte", "sollten"), "present")
MUST = Modal(("must", "must", "must"), None, ("muss", "muss", "müssen"), "present")
MAY = Modal(("may", "may", "may"), None, ("darf", "darf", "dürfen"), "present")
WANT = Modal(("want to", "wants to", "want to"), ("do not want to", "does not want to", "do not want to"),
             ("will", "will", "wollen"), "present")
WOULD_LIKE = Modal(("would like to", "would like to", "would like to"), None,
                   ("möchte", "möchte", "möchten"), "present")
COULD = Modal(("could", "could", "could"), ("could not", "could not", "could not"),
              ("konnte", "konnte", "konnten"), "past")
WANTED = Modal(("wanted to", "wanted to", "wanted to"),
               ("did not want to", "did not want to", "did not want to"), ("wollte", "wollte", "wollten"), "past")
HAD_TO = Modal(("had to", "had to", "had to"), None, ("musste", "musste", "mussten"), "past")

MODALS: tuple[Modal, ...] = (CAN, SHOULD, MUST, MAY, WANT, WOULD_LIKE, COULD, WANTED, HAD_TO)
# fmt: on
