"""Task functions of the test tasks."""


def option_number(doc):
    return int(doc["answer"]) - 1


def after_blank(doc):
    return doc["sentence"].split("_", 1)[1].strip()


def filled(doc):
    before = doc["sentence"].split("_", 1)[0]
    return [before + doc["option1"], before + doc["option2"]]


def only_even(dataset):
    return dataset.filter(lambda row: row["number"] % 2 == 0).map(
        lambda row: {"question": row["question"] + " "}
    )


def results(doc, results):
    ((logprob, _),) = results
    return {
        "perplexity": logprob,
        "nats": -logprob,
        "length": float(len(doc["question"])),
        "unlisted": doc["number"],
    }


def largest(items):
    return max(items)
