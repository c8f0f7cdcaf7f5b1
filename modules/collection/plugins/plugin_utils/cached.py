# Copyright (c) 2026 Ondol contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The action plugin of every module in ondol.cloud: a compiled binary that the target keeps.

Ansible's stock path copies a binary for every task. Here the target keeps it under its SHA-256, and a task is one
command with the arguments on standard input, so that no argument is ever written to the target's disk or shown in its
process list. What the arguments mean is the binary's business.

The stock path is still taken for ``async``, and for connections that cannot pass standard input.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.vars import merge_hash
from ansible.vars.clean import remove_internal_keys

try:
    # ansible-core 2.19 and newer
    from ansible.module_utils.common.json import Direction, get_module_decoder, get_module_encoder

    _ENCODER = {'cls': get_module_encoder('legacy', Direction.CONTROLLER_TO_MODULE)}
    # Ansible imports it when a result is parsed, which is in a worker: each task would do it anew.
    get_module_decoder('legacy', Direction.MODULE_TO_CONTROLLER)
    _PARSE = ('legacy',)

    def _untrusted(data):
        return data
except ImportError:
    from ansible.module_utils.common.json import AnsibleJSONEncoder
    from ansible.utils.unsafe_proxy import wrap_var as _untrusted

    _ENCODER = {'cls': AnsibleJSONEncoder, 'vault_to_text': True}
    _PARSE = ()

_PLUGINS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_BINARY = 'ondol-module'
# What `uname -m` says, by the folder that holds the binary.
_MACHINES = {'x86_64': ('x86_64', 'amd64'), 'aarch64': ('aarch64', 'arm64')}
_KEPT_VERSIONS = 3


def _builds():
    """The SHA-256 of the binary of each architecture that was built."""
    builds = {}
    for architecture in _MACHINES:
        try:
            with open(_path_of(architecture), 'rb') as binary:
                builds[architecture] = hashlib.sha256(binary.read()).hexdigest()
        except FileNotFoundError:
            continue
    return builds


def _path_of(architecture):
    return os.path.join(_PLUGINS, 'bin', architecture, _BINARY)


# Once per ansible-playbook: the strategy imports this file before it forks the workers.
_BUILDS = _builds()


# A cache is used only if nobody else can have put something there: the folder and the file are ours (-O), no symbolic
# links, and neither the group nor others may write. Names are relative in the listing, so that no path can look like
# a mode.
_RUN = (
    'try() {{ '
    '[ -e "$1/$s" ] || [ -L "$1/$s" ] || return 0; '
    'if [ -O "$1" ] && [ ! -L "$1" ] && [ -O "$1/$s" ]; then '
    'case $(cd "$1" && LC_ALL=C ls -ldn . "$s") in d????-??-*-????-??-*) exec "$1/$s" -;; esac; '
    'fi; '
    'cat >/dev/null; echo "ondol-cache refused $1"; exit 125; '
    '}}; '
    '{choose}; {tries}; '
    'cat >/dev/null; echo "ondol-cache missing $(uname -m)"; exit 127'
)

# `--version` finds out whether the binary can run here at all: a noexec mount, an older C library.
_STORE = (
    'umask 077; d={folder}; s={sha256}; t=; '
    'trap \'rm -f "$t"; rmdir "$d" 2>/dev/null\' EXIT; '
    'fail() {{ echo "ondol-cache failed $d: $1"; cat >/dev/null; exit 1; }}; '
    'e=$(mkdir -p "$d" 2>&1) || fail "$e"; '
    'case $(cd "$d" && LC_ALL=C ls -ldn .) in d????-??-*) [ -O "$d" ] && [ ! -L "$d" ];; *) false;; esac '
    '|| {{ trap - EXIT; cat >/dev/null; echo "ondol-cache refused $d"; exit 125; }}; '
    'find "$d" -name ".upload.*" -mmin +60 -exec rm -f {{}} + ; '
    't=$(mktemp "$d/.upload.XXXXXX" 2>&1) || fail "$t"; '
    'e=$( {{ cat >"$t"; }} 2>&1) || fail "$e"; '
    'h=$(sha256sum <"$t") || fail "sha256sum is missing"; '
    '[ "${{h%% *}}" = "$s" ] || fail "what arrived has the SHA-256 ${{h%% *}}, not $s"; '
    'e=$(chmod 700 "$t" 2>&1) || fail "$e"; '
    'e=$("$t" --version 2>&1) || fail "the binary does not run there: $e"; '
    'sync "$t" 2>/dev/null; '
    'e=$(mv -f "$t" "$d/$s" 2>&1) || fail "$e"; '
    'cd "$d" && LC_ALL=C ls -t | {{ n=0; while read -r f; do '
    'case $f in *[!0-9a-f]*) continue;; esac; [ ${{#f}} -eq 64 ] || continue; '
    'n=$((n+1)); [ $n -le {kept} ] || rm -f "$f"; '
    'done; }}; '
    'echo "ondol-cache stored"'
)


class CachedAction(ActionBase):

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp=None, task_vars=None):
        task_vars = task_vars or {}
        result = super().run(tmp, task_vars)
        del tmp  # no longer used by Ansible

        if not _BUILDS:
            raise AnsibleActionFail(
                f'{self._name()}: this installation of ondol.cloud holds no binary below {_PLUGINS}/bin; '
                'install the collection from its tarball, or build it'
            )
        if getattr(self._connection._shell, '_IS_WINDOWS', False):
            raise AnsibleActionFail(f'{self._name()}: modules of ondol.cloud run on Linux only')
        if self._task.async_val or not self._connection.has_pipelining:
            return merge_hash(result, self._run_stock(task_vars))
        return merge_hash(result, self._run_cached(task_vars))

    def _name(self):
        return self._task.resolved_action or self._task.action

    def _host(self, task_vars):
        return self._task.delegate_to or task_vars.get('inventory_hostname', 'the target')

    def _run_stock(self, task_vars):
        wrap_async = self._task.async_val and not self._connection.has_native_async
        linked = os.path.realpath(os.path.join(_PLUGINS, 'modules', self._name().rpartition('.')[2]))
        linked = os.path.basename(os.path.dirname(linked))
        machine = self._low_level_execute_command('uname -m', sudoable=False)['stdout'].strip()
        if machine not in _MACHINES.get(linked, ()):
            raise AnsibleActionFail(
                f'{self._name()}: {self._host(task_vars)} is {machine or "of an unknown architecture"}; '
                f'with async only {linked} is possible'
            )
        result = self._execute_module(module_name=self._name(), task_vars=task_vars, wrap_async=wrap_async)
        if not wrap_async:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return result

    def _run_cached(self, task_vars):
        payload = self._payload(task_vars)
        folders = self._folders()
        ran = self._try(folders, payload, task_vars)
        if ran['rc'] in (126, 127) and not _has_result(ran):
            # Missing, or there and not able to run: a disk that lost the file's content in a crash.
            self._store(folders, _machine(ran), task_vars)
            ran = self._try(folders, payload, task_vars)
        return self._result(ran, task_vars)

    def _payload(self, task_vars):
        arguments = dict(self._task.args)
        self._update_module_args(self._name(), arguments, task_vars)
        environment = {}
        self._compute_environment_string(environment)
        # Not on the command line, where Ansible puts it: that can be read by everyone on the target.
        arguments['_ansible_ondol_environment'] = {key: str(value) for key, value in environment.items()}
        return json.dumps(arguments, **_ENCODER).encode('utf-8', errors='surrogateescape')

    def _folders(self):
        """Shell words for the folders where the binary may be kept, best first."""
        folders = ['"${HOME:-/nonexistent}/.cache/ondol"']
        remote_tmp = self.get_shell_option('remote_tmp', default='~/.ansible/tmp')
        if remote_tmp.startswith('~/'):
            folders.append(f'"${{HOME:-/nonexistent}}"{shlex.quote(remote_tmp[1:])}/ondol-"$(id -u)"')
        elif remote_tmp.startswith('/'):
            folders.append(f'{shlex.quote(remote_tmp)}/ondol-"$(id -u)"')
        folders.append('/var/tmp/ondol-"$(id -u)"')
        return folders

    def _try(self, folders, payload, task_vars):
        if len(_BUILDS) == 1:
            choose = f's={next(iter(_BUILDS.values()))}'
        else:
            cases = ' '.join(
                f'{"|".join(_MACHINES[architecture])}) s={sha256};;' for architecture, sha256 in _BUILDS.items()
            )
            choose = f's=none; case $(uname -m) in {cases} esac'
        tries = '; '.join(f'try {folder}' for folder in folders)
        ran = self._low_level_execute_command(_RUN.format(choose=choose, tries=tries), in_data=payload)
        self._check_refused(ran, task_vars)
        return ran

    def _store(self, folders, machine, task_vars):
        if machine is None:
            machine = self._low_level_execute_command('uname -m')['stdout'].strip()
        architecture = next((name for name in _BUILDS if machine in _MACHINES[name]), None)
        if architecture is None:
            raise AnsibleActionFail(
                f'{self._name()}: {self._host(task_vars)} is {machine or "of an unknown architecture"}; '
                f'this collection was built for {", ".join(_BUILDS)}'
            )
        with open(_path_of(architecture), 'rb') as binary:
            content = binary.read()
        sha256 = _BUILDS[architecture]
        reasons = []
        for folder in folders:
            command = _STORE.format(folder=folder, sha256=sha256, kept=_KEPT_VERSIONS)
            stored = self._low_level_execute_command(command, in_data=content)
            self._check_refused(stored, task_vars)
            if _said(stored, 'stored') is not None:
                return
            reasons.append(_said(stored, 'failed') or (stored['stderr'] or stored['stdout']).strip())
        raise AnsibleActionFail(
            f'{self._name()}: cannot keep the binary on {self._host(task_vars)}: {"; ".join(reasons)}; '
            'make room, or set ansible_remote_tmp to a folder where the user may write and run programs'
        )

    def _check_refused(self, ran, task_vars):
        folder = _said(ran, 'refused') if ran['rc'] == 125 else None
        if folder is not None:
            raise AnsibleActionFail(
                f'{self._name()}: refuses the cache {folder} on {self._host(task_vars)}: the folder or the binary in it '
                'belongs to another user, is a symbolic link, or can be written by others. Remove the folder'
            )

    def _result(self, ran, task_vars):
        line = _result_line(ran)
        if line is None:
            words = (ran['stderr'] or ran['stdout']).strip()
            raise AnsibleActionFail(
                f'{self._name()} ended on {self._host(task_vars)} with code {ran["rc"]} and without a result'
                + (f': {words}' if words and not self._task.no_log else '')
            )
        data = self._parse_returned_data(dict(ran, stdout=line), *_PARSE)
        remove_internal_keys(data)
        return _untrusted(data)


def _result_line(ran):
    """The last line that is a JSON object; a login shell or a become program may have written before it."""
    return next((line for line in reversed(ran['stdout_lines']) if line.startswith('{')), None)


def _has_result(ran):
    return _result_line(ran) is not None


def _said(ran, word):
    """What the shell script said after this word."""
    start = f'ondol-cache {word}'
    for line in ran['stdout_lines']:
        if line.startswith(start):
            return line[len(start):].strip()
    return None


def _machine(ran):
    return _said(ran, 'missing')
