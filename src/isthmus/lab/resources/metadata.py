"""What a cloud says of itself, so that ``az cloud register`` and Terraform's ``metadata_host`` find everything here.

``GET /metadata/endpoints`` needs no token. Its shape changed twice: a small object (2015-01-01), a list of clouds
(since 2018-05-01), and this cloud alone (since 2022-09-01, what ``az cloud register`` and Terraform read).
"""

from collections.abc import Mapping
from typing import Any

from isthmus.lab.arm import versions
from isthmus.lab.arm.calls import Answer, Call
from isthmus.lab.arm.engine import Engine, Page
from isthmus.lab.identity import AZURE_AUDIENCES


async def endpoints(engine: Engine, call: Call, _words: Mapping[str, str]) -> Answer:
    """``GET /metadata/endpoints``."""
    version = versions.read(call.query)
    audiences = [call.origin, f"{call.origin}/", *AZURE_AUDIENCES]
    if version < "2018-05-01":
        return Answer(
            200,
            {
                "galleryEndpoint": f"{call.origin}/",
                "graphEndpoint": f"{call.origin}/",
                "portalEndpoint": f"{call.origin}/",
                "authentication": {"loginEndpoint": f"{call.origin}/", "audiences": audiences},
            },
        )
    cloud = _cloud(engine, call.origin, audiences)
    return Answer(200, [cloud] if version < "2022-09-01" else cloud)


def _cloud(engine: Engine, origin: str, audiences: list[str]) -> dict[str, Any]:
    return {
        "name": "AzureCloud",
        "portal": origin,
        "authentication": {
            "loginEndpoint": origin,
            "audiences": audiences,
            "tenant": engine.tenancy.tenant_id,
            "identityProvider": "AAD",
        },
        "resourceManager": origin,
        "graph": origin,
        "graphAudience": origin,
        "microsoftGraphResourceId": origin,
        "media": origin,
        "batch": origin,
        "sqlManagement": origin,
        "gallery": origin,
        "activeDirectoryDataLake": origin,
        "vmImageAliasDoc": origin,
        "appInsightsResourceId": origin,
        "appInsightsTelemetryChannelResourceId": origin,
        "attestationResourceId": origin,
        "logAnalyticsResourceId": origin,
        "ossrDbmsResourceId": origin,
        "synapseAnalyticsResourceId": origin,
        "suffixes": {
            "acrLoginServer": "azurecr.invalid",
            "attestationEndpoint": "attest.invalid",
            "azureDataLakeAnalyticsCatalogAndJob": "azuredatalakeanalytics.invalid",
            "azureDataLakeStoreFileSystem": "azuredatalakestore.invalid",
            "azureFrontDoorEndpointSuffix": "azurefd.invalid",
            "keyVaultDns": "vault.invalid",
            "mariadbServerEndpoint": "mariadb.invalid",
            "mhsmDns": "managedhsm.invalid",
            "mysqlServerEndpoint": "mysql.invalid",
            "postgresqlServerEndpoint": "postgres.invalid",
            "sqlServerHostname": "database.invalid",
            "storage": "storage.invalid",
            "storageSyncEndpointSuffix": "afs.invalid",
            "synapseAnalytics": "azuresynapse.invalid",
        },
    }


PAGES = (Page("GET", ("metadata", "endpoints"), endpoints, is_open=True),)
