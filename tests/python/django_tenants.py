"""A Django project of many tenants: its tables are distributed by the tenant. Says what each piece of it finds, one to a line.

Run once on a plain Postgres and once through Trunkline with several shards; what it says must be the same. Arguments: port, database.
"""

import datetime
import decimal
import importlib.machinery
import io
import sys
import threading
import types

import django
from django.conf import settings

PORT, DATABASE = sys.argv[1:3]


def package(name, **contents):
    """A module made here, so that the project is in one file."""
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.__dict__.update(contents)
    sys.modules[name] = module
    return module


def backend():
    """Django's own, but for two things.

    bulk_create writes VALUES: UNNEST hides how many rows there are, and their ids come from a sequence. And GROUP BY names all columns: Django
    takes the id alone for the primary key.
    """
    from django.db.backends.postgresql import base, features, operations

    class DatabaseFeatures(features.DatabaseFeatures):
        allows_group_by_selected_pks = False

    class DatabaseOperations(operations.DatabaseOperations):
        compiler_module = "django.db.models.sql.compiler"

    class DatabaseWrapper(base.DatabaseWrapper):
        features_class = DatabaseFeatures
        ops_class = DatabaseOperations

    package("values_backend", __path__=[])
    package("values_backend.base", DatabaseWrapper=DatabaseWrapper)


settings.configure(
    DATABASES={
        "default": {"ENGINE": "values_backend", "HOST": "127.0.0.1", "PORT": PORT, "USER": sys.argv[3] if len(sys.argv) > 3 else "app", "NAME": DATABASE}
    },
    INSTALLED_APPS=["django.contrib.contenttypes", "tenants"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
    SECRET_KEY="none",
    MIGRATION_MODULES={"tenants": "tenants_migrations"},
)
backend()
package("tenants", __path__=[], __file__=__file__)
package("tenants.models")
from django.apps import AppConfig, apps  # noqa: E402


class Tenants(AppConfig):
    name, label, path = "tenants", "tenants", "/nowhere"


sys.modules["tenants"].Tenants = Tenants
settings.INSTALLED_APPS[1] = "tenants.Tenants"
django.setup()

from django.core.management import call_command  # noqa: E402
from django.core.paginator import Paginator  # noqa: E402
from django.db import DatabaseError, IntegrityError, connection, migrations, models, transaction  # noqa: E402
from django.db.models import Avg, Case, Count, Exists, F, Max, Min, OuterRef, Prefetch, Q, Subquery, Sum, Value, When, Window  # noqa: E402
from django.db.models.functions import Coalesce, Lower, Rank, RowNumber, TruncMonth, Upper  # noqa: E402


def of_tenants(**more):
    return type("Meta", (), {"app_label": "tenants", **more})


def apart(to, **more):
    """Rows of the same tenant. The database knows it as a key of two columns."""
    return models.ForeignKey(to, models.CASCADE, db_constraint=False, db_index=False, **more)


class Country(models.Model):
    code = models.CharField(max_length=2, primary_key=True)
    name = models.TextField()
    __module__, Meta = "tenants.models", of_tenants()


class Tenant(models.Model):
    name = models.TextField()
    country = models.ForeignKey(Country, models.PROTECT)
    __module__, Meta = "tenants.models", of_tenants()


class Member(models.Model):
    tenant = models.ForeignKey(Tenant, models.CASCADE)
    email = models.TextField()
    logins = models.IntegerField(default=0)
    __module__, Meta = "tenants.models", of_tenants(unique_together=[("tenant", "email")])


class Project(models.Model):
    tenant = models.ForeignKey(Tenant, models.CASCADE)
    title = models.TextField()
    budget = models.DecimalField(max_digits=12, decimal_places=2, default=0)
    __module__, Meta = "tenants.models", of_tenants()


class Tag(models.Model):
    tenant = models.ForeignKey(Tenant, models.CASCADE)
    word = models.TextField()
    __module__, Meta = "tenants.models", of_tenants(unique_together=[("tenant", "word")])


class Task(models.Model):
    tenant = models.ForeignKey(Tenant, models.CASCADE)
    project = apart(Project)
    owner = models.ForeignKey(Member, models.SET_NULL, null=True, db_constraint=False, db_index=False)
    title = models.TextField()
    due = models.DateField()
    hours = models.IntegerField()
    is_done = models.BooleanField(default=False)
    tags = models.ManyToManyField(Tag, through="Tagging")
    __module__, Meta = "tenants.models", of_tenants()


class Tagging(models.Model):
    tenant = models.ForeignKey(Tenant, models.CASCADE)
    task = apart(Task)
    tag = apart(Tag)
    __module__, Meta = "tenants.models", of_tenants(unique_together=[("tenant", "task", "tag")])


class Comment(models.Model):
    pk = models.CompositePrimaryKey("tenant_id", "number")
    tenant = models.ForeignKey(Tenant, models.CASCADE)
    number = models.IntegerField()
    task = apart(Task)
    text = models.TextField()
    __module__, Meta = "tenants.models", of_tenants()


class Audit(models.Model):
    """On one shard."""

    tenant = models.BigIntegerField()
    what = models.TextField()
    __module__, Meta = "tenants.models", of_tenants()


# Django knows a column as the key, the database knows it together with the tenant.
KEYS = {
    "tenants_member": "tenant_id", "tenants_project": "tenant_id", "tenants_tag": "tenant_id", "tenants_task": "tenant_id",
    "tenants_tagging": "tenant_id",
}
FOREIGN = [
    ("tenants_task", "project_id", "tenants_project"), ("tenants_tagging", "task_id", "tenants_task"),
    ("tenants_tagging", "tag_id", "tenants_tag"),
]


def first_migration():
    """The state that Django makes of the models, and tables whose primary keys contain the tenant."""
    from django.db.migrations.autodetector import MigrationAutodetector
    from django.db.migrations.state import ProjectState

    detector = MigrationAutodetector(ProjectState(), ProjectState.from_apps(apps))
    made = detector._detect_changes()["tenants"]
    operations = [operation for migration in made for operation in migration.operations]
    statements = []
    with connection.schema_editor(collect_sql=True, atomic=False) as editor:
        for model in (Country, Tenant, Member, Project, Tag, Task, Tagging, Comment, Audit):
            editor.create_model(model)
        statements = [sql for sql in [*editor.collected_sql, *map(str, editor.deferred_sql)] if not sql.startswith("--")]
        editor.deferred_sql.clear()
    tables = []
    for sql in statements:
        for table, key in KEYS.items():
            if sql.startswith(f'CREATE TABLE "{table}" '):
                sql = sql.replace(" NOT NULL PRIMARY KEY GENERATED", " NOT NULL GENERATED", 1)
                sql = sql.rstrip().rstrip(";").rstrip(")") + f', PRIMARY KEY ("{key}", "id"))'
        tables.append(sql)
    tables += [
        f'ALTER TABLE "{table}" ADD FOREIGN KEY ("tenant_id", "{column}") REFERENCES "{to}" ("tenant_id", "id") DEFERRABLE INITIALLY DEFERRED'
        for table, column, to in FOREIGN
    ]
    run = migrations.RunSQL([(sql, None) for sql in tables], state_operations=operations)
    contents = {"initial": True, "operations": [run], "dependencies": []}
    return type("Migration", (migrations.Migration,), contents)


SAID = []


def say(what, *found):
    SAID.append(f"{what}: {', '.join(str(one) for one in found)}")


def fill():
    Country.objects.bulk_create(Country(code=code, name=name) for code, name in (("de", "Germany"), ("fr", "France"), ("jp", "Japan")))
    for number in range(1, 13):
        tenant = Tenant.objects.create(name=f"Tenant {number}", country_id=["de", "fr", "jp"][number % 3])
        people = Member.objects.bulk_create(Member(tenant=tenant, email=f"{name}@{number}.example") for name in ("ann", "bob", "eve"))
        tags = Tag.objects.bulk_create(Tag(tenant=tenant, word=word) for word in ("late", "big", "odd"))
        for place in range(number % 4 + 1):
            project = Project.objects.create(tenant=tenant, title=f"Project {number}.{place}", budget=decimal.Decimal(f"{number}00.{place}5"))
            for step in range(4):
                task = Task(tenant=tenant, project=project, owner=people[step % 3], title=f"Task {number}.{place}.{step}")
                task.due = datetime.date(2026, 1, 1) + datetime.timedelta(days=17 * step + number)
                task.hours = (number * 7 + place * 5 + step * 3) % 11
                task.save()
                for tag in tags[: step % 3]:
                    task.tags.add(tag, through_defaults={"tenant": tenant})
    Tag.objects.filter(word="late").update(word=Upper("word"))


def creates():
    tenant = Tenant.objects.get(name="Tenant 3")
    say("get_or_create", Tag.objects.get_or_create(tenant=tenant, word="big")[1], Tag.objects.get_or_create(tenant=tenant, word="new")[1])
    for logins in (5, 6):
        member, made = Member.objects.update_or_create(tenant=tenant, email="new@3.example", defaults={"logins": logins})
        say("update_or_create", member.logins, made)
    many = Member.objects.bulk_create([Member(tenant_id=t, email="all@example") for t in Tenant.objects.values_list("id", flat=True)])
    say("ids of bulk_create are there", len(many), len({one.pk for one in many}), all(one.pk for one in many))
    say("each under its id", all(Member.objects.get(pk=one.pk).tenant_id == one.tenant_id for one in many))
    again = [Member(tenant_id=one.tenant_id, email=one.email, logins=9) for one in many]
    Member.objects.bulk_create(again, ignore_conflicts=True)
    Member.objects.bulk_create(again, update_conflicts=True, unique_fields=["tenant", "email"], update_fields=["logins"])
    say("upserts", Member.objects.filter(email="all@example").aggregate(Count("id"), Sum("logins")))
    for one in many:
        one.logins = one.tenant_id % 5
    say("bulk_update", Member.objects.bulk_update(many, ["logins"], batch_size=5))
    say("after it", Member.objects.filter(email="all@example").aggregate(n=Count("id"), least=Min("logins"), most=Max("logins")))
    with transaction.atomic():
        task = Task.objects.filter(tenant=tenant).order_by("id")[0]
        for number in (1, 2):
            Comment.objects.create(tenant=tenant, number=number, task=task, text=f"comment {number}")
    found = Comment.objects.get(pk=(tenant.pk, 2))
    say("composite key", found.text, found.pk == (tenant.pk, 2), Comment.objects.filter(pk__in=[(tenant.pk, 1), (tenant.pk, 9)]).count())


def reads():
    tasks = Task.objects.order_by("title")
    say("select_related", *[(t.title, t.project.title, t.owner.email, t.tenant.country.name) for t in tasks.select_related("project", "owner", "tenant__country")[:5]])
    projects = Project.objects.order_by("title").prefetch_related(Prefetch("task_set", Task.objects.order_by("title")), "task_set__tags")
    say("prefetch_related", *[(p.title, [(t.title, sorted(g.word for g in t.tags.all())) for t in p.task_set.all()]) for p in projects[3:6]])
    say("annotate", *Tenant.objects.annotate(n=Count("task"), most=Max("task__hours")).order_by("-n", "name").values_list("name", "n", "most"))
    say("distinct counts", *Tenant.objects.annotate(p=Count("project", distinct=True), t=Count("task", distinct=True)).order_by("name").values_list("p", "t"))
    say("aggregate", Task.objects.aggregate(Count("id"), Sum("hours"), Avg("hours"), Min("due"), Max("due")))
    say("decimals", Project.objects.aggregate(Sum("budget"), Avg("budget")))
    say("values", *Task.objects.values("is_done", "hours").annotate(n=Count("id")).order_by("is_done", "hours").values_list("hours", "n"))
    say("by month", *Task.objects.annotate(m=TruncMonth("due")).values("m").annotate(n=Count("id"), h=Sum("hours")).order_by("m").values_list("m", "n", "h"))
    say("having", *Project.objects.annotate(h=Sum("task__hours")).filter(h__gt=20).order_by("title").values_list("title", "h"))
    latest = Task.objects.filter(project=OuterRef("pk")).order_by("-due", "-title").values("title")[:1]
    say("subquery", *Project.objects.annotate(last=Subquery(latest)).order_by("title").values_list("title", "last")[:6])
    late = Tagging.objects.filter(task=OuterRef("pk"), tag__word="LATE")
    say("exists", Task.objects.filter(Exists(late)).count(), Task.objects.filter(~Exists(late)).count(), Task.objects.filter(tags__word="big").count())
    ranks = Task.objects.annotate(r=Window(Rank(), partition_by="tenant", order_by=F("hours").desc())).order_by("title")
    say("window", *ranks.values_list("title", "r")[:8])
    rows = Task.objects.annotate(n=Window(RowNumber(), order_by=[F("hours").desc(), F("title").asc()])).filter(n__lte=5).order_by("n")
    say("window over all", *rows.values_list("n", "title"))
    size = Case(When(hours__gte=8, then=Value("long")), When(hours__gte=4, then=Value("middle")), default=Value("short"))
    say("case", *Task.objects.annotate(size=size).values("size").annotate(n=Count("id")).order_by("size").values_list("size", "n"))
    say("union", *Project.objects.values_list("title").union(Tag.objects.values_list("word"), Country.objects.values_list("name")).order_by("title")[:9])
    say("or", Task.objects.filter(Q(hours__gt=9) | Q(owner__email__startswith="ann")).count(), Task.objects.exclude(tags__word="odd").count())
    say("in", Task.objects.filter(project__in=Project.objects.filter(budget__gt=700)).count(), *Tenant.objects.filter(id__in=[2, 5, 7]).order_by("name").values_list("name"))
    say("dates", *Task.objects.dates("due", "month"), Task.objects.earliest("due", "title").title, Task.objects.latest("due", "title").title)
    say("first and last", Task.objects.order_by("title").first().title, Task.objects.order_by("title").last().title, Task.objects.filter(hours=99).first())
    say("distinct on", *Task.objects.order_by("tenant__name", "-hours", "title").distinct("tenant__name").values_list("title", flat=True))
    say("functions", *Member.objects.annotate(e=Lower(Coalesce("email", Value("none", output_field=models.TextField())))).filter(tenant__name="Tenant 5").order_by("e").values_list("e", flat=True))
    one = Tenant.objects.get(name="Tenant 7")
    mine = Task.objects.filter(tenant=one, project__tenant=one).select_related("project").order_by("title")
    say("one tenant", *[(t.title, t.project.title) for t in mine], mine.count(), mine.aggregate(Sum("hours")), mine.filter(tags__word="big", tags__tenant=one).count())
    say("raw", *[t.title for t in Task.objects.raw("SELECT id, title FROM tenants_task WHERE hours > %s ORDER BY title LIMIT 4", [8])])
    say("reference", *Country.objects.annotate(n=Count("tenant__member")).order_by("code").values_list("code", "n"))


def pages():
    """What an admin's list does: count, page by page, search, order."""
    listed = Task.objects.select_related("project", "tenant").order_by("-due", "title")
    paginator = Paginator(listed, 25)
    say("pages", paginator.count, paginator.num_pages)
    for number in paginator.page_range:
        say(f"page {number}", *[(t.title, t.project.title, t.tenant.name) for t in paginator.page(number)])
    found = listed.filter(Q(title__icontains="7.") | Q(project__title__icontains="7."))
    say("search", found.count(), *[t.title for t in found[:10]])
    say("in_bulk", *sorted(t.title for t in Task.objects.in_bulk(list(listed.values_list("pk", flat=True)[:7])).values()))


def streams():
    with transaction.atomic():
        streamed = list(Task.objects.order_by("title").values_list("title", flat=True).iterator(chunk_size=10))
        say("iterator", len(streamed), streamed[0], streamed[-1], streamed == sorted(streamed))
        counted = sum(len(task.tags.all()) for task in Task.objects.prefetch_related("tags").order_by("id").iterator(chunk_size=16))
        say("iterator with prefetch", counted, Tagging.objects.count())
        say("a single table's", *Audit.objects.order_by("id").values_list("what", flat=True).iterator(chunk_size=2))
    names = Tenant.objects.order_by("name").values_list("name", flat=True)
    # Outside of a transaction Django's cursors are WITH HOLD, which is refused over several shards.
    with transaction.atomic():
        say("two at once", *zip(names.iterator(chunk_size=3), Member.objects.order_by("email").values_list("email", flat=True)[:12]))


def changes():
    say("update", Task.objects.filter(hours__gte=5).update(hours=F("hours") + 1, is_done=True), Task.objects.aggregate(Sum("hours")))
    one = Tenant.objects.get(name="Tenant 4")
    say("update of one", Task.objects.filter(tenant=one).update(title=Upper("title")), Task.objects.filter(title__startswith="TASK").count())
    task = Task.objects.filter(tenant=one).order_by("title")[0]
    task.hours = F("hours") * 2
    task.save(update_fields=["hours"])
    task.refresh_from_db()
    say("F", task.hours)
    say("delete of some", Comment.objects.filter(text="comment 1").delete())
    say("cascade", Tenant.objects.get(name="Tenant 6").delete())
    say("what is left", Tenant.objects.count(), Project.objects.count(), Task.objects.count(), Tagging.objects.count(), Member.objects.count())
    say("by hand", Task.objects.filter(tenant__name="Tenant 8", hours__gt=5).delete()[1])


def transactions():
    names = lambda: list(Tenant.objects.filter(name__startswith="T").order_by("name").values_list("name", flat=True))
    before = names()
    try:
        with transaction.atomic():
            for name in ("T a", "T b", "T c"):
                Tenant.objects.create(name=name, country_id="fr")
            say("inside", Tenant.objects.count() - len(before))
            raise ValueError
    except ValueError:
        say("rolled back", names() == before)
    with transaction.atomic():
        tenants = [Tenant.objects.create(name=f"T {letter}", country_id="jp") for letter in "abcd"]
        try:
            with transaction.atomic():
                for tenant in tenants:
                    Member.objects.create(tenant=tenant, email="x")
                Member.objects.create(tenant=tenants[0], email="x")
        except IntegrityError as error:
            say("savepoint", type(error.__cause__).__name__)
        say("after the savepoint", Member.objects.filter(email="x").count())
        point = transaction.savepoint()
        Audit.objects.create(tenant=1, what="undone")
        transaction.savepoint_rollback(point)
        for tenant in tenants:
            Audit.objects.create(tenant=tenant.pk, what=tenant.name)
        done = []
        transaction.on_commit(lambda: done.append("on_commit"))
    say("committed", *names()[-4:], *Audit.objects.order_by("what").values_list("what", flat=True), *done)
    task = Task.objects.order_by("title")[0]
    orphan = Tagging(tenant_id=task.tenant_id, task=task, tag_id=-1)
    try:
        with transaction.atomic():
            orphan.save()
            say("deferred", "not yet")
    except IntegrityError as error:
        say("deferred", type(error.__cause__).__name__)


def locks():
    one = Tenant.objects.get(name="Tenant 9")
    waits = []

    def other():
        try:
            with transaction.atomic():
                list(Task.objects.filter(tenant=one).select_for_update(nowait=True))
        except DatabaseError as error:
            waits.append(type(error.__cause__).__name__)
        with transaction.atomic():
            waits.append(Task.objects.filter(tenant=one).select_for_update(skip_locked=True).count())
            waits.append(len(Task.objects.filter(tenant=one).select_for_update(skip_locked=True)))
        connection.close()

    with transaction.atomic():
        held = Task.objects.filter(tenant=one).order_by("title").select_for_update()
        say("locked", len(held))
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(30)
    say("the other", *waits)
    with transaction.atomic():
        say("locked on all", len(Task.objects.filter(hours__gt=7).select_for_update()))


def main():
    package("tenants_migrations", __path__=[])
    package("tenants_migrations.0001_initial", Migration=first_migration())
    from django.db.migrations.loader import MigrationLoader

    # It looks for files, and these modules have none.
    def load_disk(self):
        self.disk_migrations = {("tenants", "0001_initial"): sys.modules["tenants_migrations.0001_initial"].Migration("0001_initial", "tenants")}
        self.unmigrated_apps, self.migrated_apps = {"contenttypes"}, {"tenants"}

    MigrationLoader.load_disk = load_disk
    told = io.StringIO()
    call_command("migrate", stdout=told, verbosity=1, interactive=False, run_syncdb=True)
    say("migrate", "Applying tenants.0001_initial... OK" in told.getvalue())
    call_command("migrate", stdout=io.StringIO(), verbosity=0, interactive=False)
    say("sequences", connection.introspection.get_sequences(connection.cursor(), "tenants_task") != [])
    for part in (fill, creates, reads, pages, transactions, streams, changes, locks):
        try:
            part()
        except Exception as error:
            say(part.__name__, type(error).__name__, error)
            if "-v" in sys.argv:
                raise
    print("\n".join(SAID))


main()
