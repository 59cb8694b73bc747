# SPDX-License-Identifier: MIT
"""What row `python` runs: dictionaries, strings, lists, calls of methods, an exception; argument: turns."""
import sys


class Account:
    def __init__(self, name):
        self.name = name
        self.balance = 0

    def move(self, amount):
        if self.balance + amount < 0:
            raise ValueError(self.name)
        self.balance += amount


def words(turn):
    state = turn + 1
    for _ in range(400):
        state = (state * 1103515245 + 12345) & 0x7fffffff
        yield 'k' + str(state >> 20)


def turn(number, accounts):
    counts = {}
    for word in words(number):
        counts[word] = counts.get(word, 0) + 1
    ranking = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    refused = 0
    for word, count in ranking:
        account = accounts.setdefault(word, Account(word))
        try:
            account.move(count if len(word) % 2 else -count)
        except ValueError:
            refused += 1
    return refused + sum(i * i for i in range(200)) % 7


accounts = {}
total = sum(turn(n, accounts) for n in range(int(sys.argv[1])))
print(total, len(accounts), sum(a.balance for a in accounts.values()))
