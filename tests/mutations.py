"""What strangers write into files of a run: the data of one of
ours with an entry that is odd, or only a little different."""
import copy
import random

MARKUP = '"><img src=x onerror=alert(1)><script>alert(2)</script>{{ 7 * 7 }}\'</script>'
ODD = [None, True, -1, 0, 7, 0.5, 2 ** 33, 1e308, -1e308, 5e-324, 10 ** 400, float('nan'), float('inf'), '', 'x' * 10 ** 5,
       MARKUP, '\ud800', '\0', '../..', [], {}, [[]], {'mean': MARKUP}, {'': {'': {}}}, [{'a': 1}] * 3]


def mutated(value, rng: random.Random):
    """The same nested data with one entry, somewhere, exchanged, renamed or removed."""
    value = copy.deepcopy(value)
    tables, level = [], [value]
    while level:
        tables += [item for item in level if isinstance(item, dict) and item]
        level = [inner for item in level if isinstance(item, dict) for inner in item.values()]
    table = rng.choice(tables)
    key = rng.choice(list(table))
    kind = rng.random()
    if kind < 0.4:
        table[key] = rng.choice(ODD)
    elif kind < 0.75:
        table[key] = alike(table[key], rng)
    elif kind < 0.9:
        table[MARKUP] = table.pop(key)
    else:
        del table[key]
    return value


def alike(value, rng: random.Random):
    """Another value of the same type, which gets past checks of types alone."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return rng.choice([value * 2, value + 1, value - 1, -value, value * 1000, 10 ** 15 if isinstance(value, int) else 1e-29])
    if isinstance(value, str):
        return rng.choice([value + 'x', value.upper(), value[:-1], value[::-1]])
    if isinstance(value, list):
        return rng.choice([value * 2, value[:-1], value + rng.choices(ODD), [rng.choice(ODD), *value[1:]]])
    return rng.choice(ODD)
