"""What can go wrong, one class for each fact, the wording beside the class.

Every message states the fact, the value and the next step, so that the command line can print it
as one line and a scheduled job's log is enough to act on.
"""

from repairops.errors.base import *
from repairops.errors.foreseen import *
from repairops.errors.images import *
from repairops.errors.models import *
from repairops.errors.registry import *
from repairops.errors.training import *
from repairops.errors.usage import *
