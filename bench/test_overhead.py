"""The measurement is refused when a system has left work out, or done other work: python3 -m unittest discover bench"""
import os
import pathlib
import tempfile
import unittest

import durable_task
from overhead import Store


class Refused(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        for kind in ["data", "commits"]:
            os.mkdir(self.folder / kind)
        for number in range(3):
            durable_task.task(folder.name, 0, number)
        self.store = Store("ray", self.folder)

    def test_whole(self):
        self.assertEqual(len(self.store.objects(3)), 3)

    def test_a_task_without_commit(self):
        (self.folder / "commits/00000001.json").unlink()
        self.assertRaisesRegex(SystemExit, "2 tasks of 3", self.store.objects, 3)

    def test_other_content(self):
        (self.folder / "data/00000001.txt").write_bytes(durable_task.payload(2))
        self.assertRaisesRegex(SystemExit, "task 1", self.store.objects, 3)

    def test_what_is_forgotten_is_left_to_do(self):
        self.store.forget(1, 3)
        self.assertEqual(durable_task.left(self.folder, 3), [1, 2])
        self.assertEqual(os.listdir(self.folder / "data"), ["00000000.txt"])

    def test_a_commit_is_made_once(self):
        self.assertRaises(FileExistsError, durable_task.task, str(self.folder), 0, 1)


if __name__ == "__main__":
    unittest.main()
