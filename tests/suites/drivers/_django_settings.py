"""Settings of Django's tests: its two databases are the target's, and the outcome of each test goes to a file, one to a line."""

import os
import unittest

from django.test.runner import DiscoverRunner


def database(name):
    place = {"HOST": os.environ["PGHOST"], "PORT": os.environ["PGPORT"], "USER": os.environ["PGUSER"]}
    # The database for tests is the database itself, which is there already.
    engine = os.environ.get("SUITE_ENGINE", "django.db.backends.postgresql")
    return {"ENGINE": engine, "NAME": name, "TEST": {"NAME": name}, **place}


DATABASES = {"default": database("django"), "other": database("django_other")}
SECRET_KEY = "none"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
TEST_RUNNER = "suite_settings.Runner"


class Outcomes(unittest.TextTestResult):
    """Tells of a test as soon as it has ended."""

    def tell(self, outcome, test):
        with open(os.environ["SUITE_OUTCOMES"], "a") as file:
            file.write(f"{outcome} {test.id()}\n")

    def addSuccess(self, test):
        super().addSuccess(test)
        self.tell("pass", test)

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.tell("fail", test)

    def addError(self, test, error):
        super().addError(test, error)
        self.tell("fail", test)

    def addSubTest(self, test, part, error):
        super().addSubTest(test, part, error)
        if error is not None:
            self.tell("fail", test)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.tell("skip", test)

    def addExpectedFailure(self, test, error):
        super().addExpectedFailure(test, error)
        self.tell("pass", test)

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self.tell("fail", test)


class Runner(DiscoverRunner):
    def get_resultclass(self):
        return Outcomes
