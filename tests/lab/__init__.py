"""Labs of edge hosts on one machine, and what runs in them.

Commands are called by name (ansible-playbook, molecule), and a Python environment that is not activated has its own
nowhere on PATH: whoever imports this package finds them first, make or no make.
"""

from tests.lab.sh import environment_first

environment_first()
