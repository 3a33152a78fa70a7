"""What a training run did, as figures and as a page with curves and players."""

from acestep.evaluation.run_report.figures import RunFigures, run_figures
from acestep.evaluation.run_report.page import write_run_page

__all__ = ["RunFigures", "run_figures", "write_run_page"]
