"""Writes each task's result as a line of JSON to the file that ONDOL_RESULTS names."""

from __future__ import annotations

import json
import os

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: results
type: notification
short_description: results for the tests
description: Writes each task's result as a line of JSON.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = 'notification'
    CALLBACK_NAME = 'results'

    def _write(self, status, result):
        line = {
            'task': result._task.get_name(),
            'status': status,
            'result': json.loads(self._dump_results(result._result, keep_invocation=True)),
        }
        with open(os.environ['ONDOL_RESULTS'], 'a', encoding='utf-8') as out:
            out.write(json.dumps(line) + '\n')

    def v2_runner_on_ok(self, result):
        self._write('ok', result)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self._write('failed', result)

    def v2_runner_on_unreachable(self, result):
        self._write('unreachable', result)
