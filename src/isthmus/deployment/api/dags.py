"""The agent API's part for DAG processing: bundles, submissions, observations, claims, settlements.

Each call is for an agent with the role dag-processor, in a deployment that has such. Bodies may be large, so they are
taken apart in a thread; how large they may be, also when they are uncompressed, is [isthmus] max_dags_body_bytes.
"""

from typing import Any, Final
from uuid import UUID

from isthmus.deployment.api.operations import ENROLLED, Caller, Operation
from isthmus.deployment.dags import bundles
from isthmus.deployment.dags.bundles import Asking, Standing
from isthmus.deployment.dags.observing import Pass
from isthmus.deployment.dags.persisting import Submitter
from isthmus.deployment.dags.processing import Dags
from isthmus.deployment.errors import PlaneRefusedError
from isthmus.deployment.plane import Plane
from isthmus.deployment.roster import Agent
from isthmus.wire import paths
from isthmus.wire.dags import (
    BundlesRequest,
    BundlesResponse,
    BundleVerdict,
    DagClaimsRequest,
    DagClaimsResponse,
    DagSettleRequest,
    DagSettleResponse,
    ObservationsRequest,
    ObservationsResponse,
    ObservedBundle,
    SubmissionsRequest,
    SubmissionsResponse,
)
from isthmus.wire.names import Role
from isthmus.wire.problems import Code

#: How often an agent asks for callbacks and files to parse first.
CLAIMS_SECONDS: Final = 2.0


class DagApi:
    """DAG processing over the wire."""

    def __init__(self, plane: Plane, dags: Dags) -> None:
        self._plane = plane
        self._dags = dags
        codes = (*ENROLLED, Code.TOKEN_SCOPE, Code.ROLE_NOT_USED)
        large = (*codes, Code.ENCODING_UNSUPPORTED)
        self.operations: tuple[Operation[Any, Any], ...] = (
            Operation("dag_bundles", paths.DAG_BUNDLES, BundlesRequest, BundlesResponse, self.bundles, codes),
            Operation(
                "dag_submissions",
                paths.DAG_SUBMISSIONS,
                SubmissionsRequest,
                SubmissionsResponse,
                self.submissions,
                large,
                large=True,
            ),
            Operation(
                "dag_observations",
                paths.DAG_OBSERVATIONS,
                ObservationsRequest,
                ObservationsResponse,
                self.observations,
                large,
                large=True,
            ),
            Operation("dag_claims", paths.DAG_CLAIMS, DagClaimsRequest, DagClaimsResponse, self.claims, codes),
            Operation(
                "dag_settlements", paths.DAG_SETTLEMENTS, DagSettleRequest, DagSettleResponse, self.settlements, codes
            ),
        )

    async def bundles(self, caller: Caller, asked: BundlesRequest) -> BundlesResponse:
        """Say which bundles are this agent's to parse."""
        agent = await self._agent(caller, asked.agent_id, asked.instance_id)
        config, token = self._plane.config, caller.token
        asking = Asking(agent.agent_id, token, self._plane.tokens.kin(token.token_id), agent.admits_work)
        standings = await self._dags.ask(asking, asked.bundles)
        return BundlesResponse(
            bundles=tuple(_verdict(one) for one in standings),
            sources_wanted=config.dag_sources,
            poll_seconds=bundles.POLL_SECONDS,
            lease_seconds=self._dags.terms.lease_seconds,
            max_body_bytes=config.max_dags_body_bytes,
        )

    async def submissions(self, caller: Caller, asked: SubmissionsRequest) -> SubmissionsResponse:
        """Take in parsed files that have changed."""
        agent = await self._agent(caller, asked.agent_id, asked.instance_id)
        submitter = Submitter(agent.agent_id, self._plane.tokens.kin(caller.token.token_id))
        return SubmissionsResponse(files=tuple(await self._dags.submit(submitter, asked.submissions)))

    async def observations(self, caller: Caller, asked: ObservationsRequest) -> ObservationsResponse:
        """Take in what there is in bundles after a pass over them."""
        agent = await self._agent(caller, asked.agent_id, asked.instance_id)
        answers = []
        for one in asked.observations:
            files = None if one.files is None else {file.relative_fileloc: file.content_hash for file in one.files}
            seen = await self._dags.observe(
                Pass(agent.agent_id, one.bundle, one.fence, one.version, one.count, one.digest, one.moved),
                files,
            )
            answers.append(ObservedBundle(bundle=one.bundle, held=seen.held, known=seen.known, wanted=seen.wanted))
        return ObservationsResponse(bundles=tuple(answers))

    async def claims(self, caller: Caller, asked: DagClaimsRequest) -> DagClaimsResponse:
        """Hand out callbacks, and files to be parsed before others."""
        agent = await self._agent(caller, asked.agent_id, asked.instance_id)
        claims = await self._dags.claim(agent.agent_id, asked.bundles, asked.limit) if agent.admits_work else []
        return DagClaimsResponse(claims=tuple(claims), poll_seconds=CLAIMS_SECONDS)

    async def settlements(self, caller: Caller, asked: DagSettleRequest) -> DagSettleResponse:
        """Take in which claims were done, and which are still being done."""
        agent = await self._agent(caller, asked.agent_id, asked.instance_id)
        settled = await self._dags.settle(agent.agent_id, asked.claims, asked.extended)
        return DagSettleResponse(settled=settled.settled, lost=settled.lost)

    async def _agent(self, caller: Caller, agent_id: UUID, instance_id: UUID) -> Agent:
        """The agent. Raises PlaneRefusedError unless it processes DAGs and the deployment has such agents."""
        agent = await self._plane.roster.lookup(agent_id, instance_id, caller.token.token_id)
        if agent.role is not Role.DAG_PROCESSOR:
            raise PlaneRefusedError(Code.TOKEN_SCOPE, f"An agent with the role {agent.role} processes no DAGs.")
        if Role.DAG_PROCESSOR not in self._plane.config.roles:
            raise PlaneRefusedError(Code.ROLE_NOT_USED)
        return agent


def _verdict(one: Standing) -> BundleVerdict:
    return BundleVerdict(
        name=one.name,
        accepted=one.code is None,
        assigned=one.assigned,
        fence=one.fence,
        holder=one.holder,
        code="" if one.code is None else one.code.value,
        detail=one.detail,
    )
