import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';
import type { ISandbox, ISandboxService } from './tokens';

/**
 * The one place that talks to the server extension.
 */
export class SandboxService implements ISandboxService {
  constructor(serverSettings: ServerConnection.ISettings) {
    this._serverSettings = serverSettings;
  }

  async list(): Promise<ISandbox[]> {
    const { sandboxes } = await this._get<{ sandboxes: ISandbox[] }>(
      'sandboxes'
    );
    return sandboxes;
  }

  private async _get<T>(resource: string): Promise<T> {
    const response = await ServerConnection.makeRequest(
      URLExt.join(this._serverSettings.baseUrl, 'vsandbox', 'api', resource),
      { method: 'GET' },
      this._serverSettings
    );
    if (!response.ok) {
      throw await ServerConnection.ResponseError.create(response);
    }
    return (await response.json()) as T;
  }

  private readonly _serverSettings: ServerConnection.ISettings;
}
