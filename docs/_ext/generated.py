"""The directive `{generated} name`: Markdown that is made while the pages are built.

No number of a page is typed by hand. What a table is made of is a dependency of the page, so that
the page is built again when it changes.
"""

from pathlib import Path

import capability_table
import excluded_lines
import gpu_tables
import measured_tables
import ranks_model
import study_tables
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

TABLES = {
    "accuracy": (measured_tables.accuracy, measured_tables.files),
    "bounds": (measured_tables.bounds, measured_tables.files),
    "claims": (measured_tables.claims, measured_tables.files),
    "company": (measured_tables.company, measured_tables.files),
    "compiled-steps": (measured_tables.compiled_steps, measured_tables.files),
    "distribution": (measured_tables.distribution, measured_tables.files),
    "environments": (measured_tables.environments, measured_tables.files),
    "first-batch": (measured_tables.first_batch, measured_tables.files),
    "gpu": (measured_tables.gpu_pages, list),
    "kronecker": (measured_tables.kronecker, measured_tables.files),
    "layers": (measured_tables.layers, measured_tables.files),
    "libraries": (measured_tables.libraries, measured_tables.files),
    "methods": (measured_tables.methods, measured_tables.files),
    "missed": (measured_tables.missed, measured_tables.files),
    "mixed": (measured_tables.mixed, measured_tables.files),
    "online_eigh": (measured_tables.online_eigh, measured_tables.files),
    "peers": (measured_tables.peers, measured_tables.files),
    "precision": (measured_tables.precision, measured_tables.files),
    "randomized_eigh": (measured_tables.randomized_eigh, measured_tables.files),
    "sample-gram-ways": (measured_tables.sample_gram_ways, measured_tables.files),
    "sample-weights-cost": (measured_tables.sample_weights_cost, measured_tables.files),
    "sample-weights-errors": (measured_tables.sample_weights_errors, measured_tables.files),
    "netket-runs": (measured_tables.netket_runs, measured_tables.files),
    "spin-chains": (measured_tables.spin_chains, measured_tables.files),
    "storage": (measured_tables.storage, measured_tables.files),
    "stored-numbers": (measured_tables.stored_numbers, measured_tables.files),
    "structured-steps": (measured_tables.structured_steps, measured_tables.files),
    "toeplitz": (measured_tables.toeplitz, measured_tables.files),
    "ranks-assumptions": (ranks_model.assumptions_table, lambda: [Path(ranks_model.__file__)]),
    "ranks-model": (ranks_model.model_table, lambda: [Path(ranks_model.__file__)]),
    "capabilities": (capability_table.on_cpu, lambda: [capability_table.SOURCE]),
    "derivatives": (capability_table.derivatives, lambda: [capability_table.SOURCE]),
    "gpu-choices": (gpu_tables.choices, lambda: [gpu_tables.CHOICES_SOURCE]),
    "gpu-launches": (gpu_tables.launches, lambda: [gpu_tables.LAUNCHES]),
    "gpu-runs": (gpu_tables.runs, list),
    "gpu-capabilities": (capability_table.on_gpu, capability_table.files),
    "excluded-lines": (excluded_lines.listing, excluded_lines.files),
    **{
        name: (table, lambda: [p for p in study_tables.FILES if p.exists()])
        for name, table in study_tables.TABLES.items()
    },
}


class Generated(SphinxDirective):
    """Put a table in the place of the directive."""

    required_arguments = 1

    def run(self):
        """Return the nodes of the Markdown; damaged data fail the build."""
        table, files = TABLES[self.arguments[0]]
        for path in files():
            self.env.note_dependency(path)
        try:
            text = table()
        except (measured_tables.DamagedResultError, capability_table.DamagedRecordError) as error:
            raise ExtensionError(str(error)) from error
        return self.parse_text_to_nodes(text)


def setup(app):
    """Register the directive."""
    app.add_directive("generated", Generated)
    return {"parallel_read_safe": True}
