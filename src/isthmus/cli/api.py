"""``isthmus api``: the composition root of the Remote Execution API.

It reads Airflow's configuration, section ``[isthmus]``, like the scheduler beside it: there are no flags that could say
something else. ``isthmus config explain --role deployment`` shows what it reads.
"""

import typer

from isthmus.kit import logs

app = typer.Typer(add_completion=False)


@app.command()
def api() -> None:
    """Run the Remote Execution API of a deployment, in the foreground.

    Its settings are in Airflow's configuration, section [isthmus]; see: isthmus config explain --role deployment.
    On SIGTERM it answers what waits and ends.
    """
    from isthmus.deployment import compat, serving  # noqa: PLC0415 - help is printed without Airflow

    logs.configure()  # after Airflow, which has its own idea of logging
    serving.main(compat.deployment_config())
