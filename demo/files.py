"""JSONL files of the demo, read and written whole. Rows of users go through stepdpo/rows.py, which checks them."""
import json


def load_rows(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def save_rows(path, rows):
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
