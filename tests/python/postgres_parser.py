"""What Postgres's own parser finds in statements: writes the golden files of tests/corpus.rs.

    python3 -m venv .cache/pglast && .cache/pglast/bin/pip install pglast
    .cache/pglast/bin/python tests/python/postgres_parser.py tests/golden/tables/orm.sql
    .cache/pglast/bin/python tests/python/postgres_parser.py --name postgres FOLDER/src/test/regress/sql/{select,join}.sql

pglast holds Postgres's parser as a library (libpg_query). One line for each statement that reads or writes rows:
`tables` are those that it names, those of WITH left out; `keys` are the columns that a conjunct at the top of a WHERE or
ON compares with `=`, `IN` or `= ANY`, alone or in an OR: nothing else may ever be taken for a key.
"""

import json
import pathlib
import sys

import pglast
from pglast import ast, enums

DATA = (ast.SelectStmt, ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)
LONGEST = 3000


def children(node):
    if isinstance(node, (tuple, list)):
        yield from node
    elif isinstance(node, ast.Node):
        for name in node:
            yield getattr(node, name)


class Reading:
    def __init__(self):
        self.tables = set()
        self.keys = set()

    def table(self, relation, ctes=()):
        if relation.schemaname is None and relation.relname in ctes:
            return
        self.tables.add(".".join(filter(None, [relation.schemaname, relation.relname])))

    def walk(self, node, ctes=frozenset()):
        if isinstance(node, ast.RangeVar):
            self.table(node, ctes)
            return
        if isinstance(node, DATA):
            ctes = self.with_clause(node, ctes)
            if not isinstance(node, ast.SelectStmt):
                self.table(node.relation)
            if isinstance(node, ast.MergeStmt):
                self.conjuncts(node.joinCondition)
            if isinstance(node, (ast.SelectStmt, ast.UpdateStmt, ast.DeleteStmt)):
                self.conjuncts(node.whereClause)
            for name in node:
                if name == "withClause" or (name == "relation" and not isinstance(node, ast.SelectStmt)):
                    continue
                # FOR UPDATE OF has names of this query, not tables.
                if name in ("intoClause", "lockingClause"):
                    continue
                self.walk(getattr(node, name), ctes)
            return
        if isinstance(node, ast.JoinExpr):
            self.conjuncts(node.quals)
        for child in children(node):
            if isinstance(child, (ast.Node, tuple, list)):
                self.walk(child, ctes)

    def with_clause(self, node, ctes):
        clause = getattr(node, "withClause", None)
        if clause is None:
            return ctes
        names = {cte.ctename for cte in clause.ctes}
        if clause.recursive:
            ctes = ctes | names
            for cte in clause.ctes:
                self.walk(cte.ctequery, ctes)
            return ctes
        for cte in clause.ctes:
            self.walk(cte.ctequery, ctes)
            ctes = ctes | {cte.ctename}
        return ctes

    def conjuncts(self, condition):
        if isinstance(condition, ast.BoolExpr) and condition.boolop in (
            enums.BoolExprType.AND_EXPR,
            enums.BoolExprType.OR_EXPR,
        ):
            for argument in condition.args:
                self.conjuncts(argument)
        elif isinstance(condition, ast.A_Expr):
            operator = condition.name[-1].sval
            if operator == "=":
                for side in (condition.lexpr, condition.rexpr):
                    self.column(side)

    def column(self, side):
        # (a, b) = (1, 2) compares each.
        if isinstance(side, ast.RowExpr):
            for one in side.args or ():
                self.column(one)
        if isinstance(side, ast.TypeCast):
            self.column(side.arg)
        if isinstance(side, ast.ColumnRef):
            names = [one.sval for one in side.fields if isinstance(one, ast.String)]
            if names and len(names) == len(side.fields):
                self.keys.add(names[-1])


def statements(text):
    lines = [line for line in text.splitlines() if not line.startswith("\\")]
    piece = []
    for line in lines:
        piece.append(line)
        if line.split("--")[0].rstrip().endswith(";"):
            yield "\n".join(piece).strip().rstrip(";")
            piece = []


def read(text):
    """None where Postgres would not read it, or it is not one statement over rows."""
    try:
        parsed = pglast.parse_sql(text)
    except (pglast.Error, ValueError):
        return None
    if len(parsed) != 1 or not isinstance(parsed[0].stmt, DATA):
        return None
    reading = Reading()
    reading.walk(parsed[0].stmt)
    return {"sql": text, "tables": sorted(reading.tables), "keys": sorted(reading.keys)}


def main(arguments):
    name = None
    if arguments[0] == "--name":
        name, arguments = arguments[1], arguments[2:]
    golden = pathlib.Path(__file__).parent.parent / "golden/tables"
    found, seen = [], set()
    for path in map(pathlib.Path, arguments):
        for text in statements(path.read_text()):
            known = read(text) if len(text) <= LONGEST and text not in seen else None
            if known and known["tables"]:
                seen.add(text)
                found.append(known)
    file = golden / f"{name or pathlib.Path(arguments[0]).stem}.jsonl"
    file.write_text("".join(json.dumps(known, ensure_ascii=False) + "\n" for known in found))
    print(f"{file}: {len(found)} statements")


main(sys.argv[1:])
