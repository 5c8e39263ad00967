"""What the command line does, a module a command.

Importing it is how every command begins, so it hides what other packages would tell their own developers, before
the first of them is imported.
"""

from odam_d2.notices import hide_notices

hide_notices()
