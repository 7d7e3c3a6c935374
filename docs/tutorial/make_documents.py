"""Writes labelled documents for chapter 5: six sentences each, of which one alone tells the label.

The label is the topic of one sentence: food, clothes or text. The other five mention none of the three. The place of
the sentence is random, and written to a third file, so that it can be compared with the attention of the classifier.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

TOPICS = {
    "food": "cake cakes apple apples salad salads soup soups sausage sausages egg eggs bread potato potatoes",
    "clothes": "coat coats sweater sweaters shirt shirts dress dresses jacket jackets skirt skirts",
    "text": "letter letters novel novels article articles book books newspaper newspapers poem poems",
}
SENTENCES = 6
SIZES = {"train": 3000, "valid": 300, "test": 300}
CORPUS, FOLDER = Path("data/quickstart"), Path("runs/tutorial/text")


def topics_of(sentence: str) -> set[str]:
    """Returns the topics whose words a sentence has."""
    words = set(re.findall(r"\w+", sentence.lower()))
    return {topic for topic, names in TOPICS.items() if words & set(names.split())}


def main() -> None:
    draw = random.Random(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for split, size in SIZES.items():
        sentences = (CORPUS / f"{split}.en").read_text(encoding="utf-8").splitlines()
        by_topic = {topic: [each for each in sentences if topics_of(each) == {topic}] for topic in TOPICS}
        neutral = [each for each in sentences if not topics_of(each)]
        documents, labels, places = [], [], []
        for _ in range(size):
            label, place = draw.choice(list(TOPICS)), draw.randrange(SENTENCES)
            lines = draw.sample(neutral, SENTENCES - 1)
            lines.insert(place, draw.choice(by_topic[label]))
            documents.append("\t".join(lines))
            labels.append(label)
            places.append(str(place))
        for name, column in (("docs", documents), ("labels", labels), ("places", places)):
            (FOLDER / f"{split}.{name}").write_text("\n".join(column) + "\n", encoding="utf-8")
        print(f"{split}: {size} documents, {', '.join(f'{labels.count(topic)} {topic}' for topic in TOPICS)}")


if __name__ == "__main__":
    main()
