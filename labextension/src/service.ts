import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';
import type {
  IOperation,
  IPoint,
  IPool,
  IPrunable,
  IRuntime,
  IRuntimes,
  ISandbox,
  ISandboxService,
  ISnapshot
} from './tokens';

/**
 * The one place that talks HTTP to the server extension.
 */
export class SandboxService implements ISandboxService {
  constructor(serverSettings: ServerConnection.ISettings) {
    this._serverSettings = serverSettings;
  }

  async list(): Promise<ISandbox[]> {
    const answer = await this._ask<{ sandboxes: ISandbox[] }>('GET', [
      'sandboxes'
    ]);
    return answer.sandboxes;
  }

  async history(sandbox: string): Promise<ISnapshot[]> {
    const answer = await this._ask<{ snapshots: ISnapshot[] }>('GET', [
      'sandboxes',
      sandbox,
      'snapshots'
    ]);
    return answer.snapshots;
  }

  async operations(): Promise<IOperation[]> {
    const answer = await this._ask<{ operations: IOperation[] }>('GET', [
      'operations'
    ]);
    return answer.operations;
  }

  operation(id: string): Promise<IOperation> {
    return this._ask('GET', ['operations', id]);
  }

  runtimes(): Promise<IRuntimes> {
    return this._ask('GET', ['runtimes']);
  }

  async pools(): Promise<IPool[]> {
    const answer = await this._ask<{ pools: IPool[] }>('GET', ['pools']);
    return answer.pools;
  }

  prunable(sandbox: string): Promise<IPrunable> {
    return this._ask('GET', ['sandboxes', sandbox, 'prune']);
  }

  rename(sandbox: string, name: string): Promise<ISandbox> {
    return this._ask('PATCH', ['sandboxes', sandbox], { name });
  }

  changeSnapshot(
    snapshot: ISnapshot,
    change: { name?: string; note?: string }
  ): Promise<ISnapshot> {
    return this._ask('PATCH', place(snapshot), change);
  }

  addRuntime(recipe: string, replace: boolean): Promise<IRuntime> {
    return this._ask('POST', ['runtimes'], { recipe, replace });
  }

  cancel(operation: string): Promise<IOperation> {
    return this._ask('DELETE', ['operations', operation]);
  }

  act(
    sandbox: string,
    verb: Parameters<ISandboxService['act']>[1]
  ): Promise<IOperation> {
    return verb === 'delete'
      ? this._ask('DELETE', ['sandboxes', sandbox])
      : this._ask('POST', ['sandboxes', sandbox, verb]);
  }

  snapshot(
    sandbox: string,
    request: { name?: string; note?: string }
  ): Promise<IOperation> {
    return this._ask('POST', ['sandboxes', sandbox, 'snapshots'], request);
  }

  rollback(
    sandbox: string,
    request: { snapshot: string; cells: boolean; memory: boolean }
  ): Promise<IOperation> {
    return this._ask('POST', ['sandboxes', sandbox, 'rollback'], request);
  }

  fork(
    sandbox: string,
    request: { snapshot?: string; name?: string; notebook: boolean }
  ): Promise<IOperation> {
    return this._ask('POST', ['sandboxes', sandbox, 'forks'], request);
  }

  trial(sandbox: string, command: string): Promise<IOperation> {
    return this._ask('POST', ['sandboxes', sandbox, 'trials'], { command });
  }

  deleteSnapshot(snapshot: ISnapshot): Promise<IOperation> {
    return this._ask('DELETE', place(snapshot));
  }

  diff(before: IPoint, after: IPoint): Promise<IOperation> {
    return this._ask('POST', ['diffs'], { old: before, new: after });
  }

  build(runtime: string): Promise<IOperation> {
    return this._ask('POST', ['runtimes', runtime, 'builds']);
  }

  private async _ask<T>(
    method: 'GET' | 'POST' | 'PATCH' | 'DELETE',
    path: readonly string[],
    body?: object
  ): Promise<T> {
    const response = await ServerConnection.makeRequest(
      URLExt.join(
        this._serverSettings.baseUrl,
        'vsandbox',
        'api',
        ...path.map(encodeURIComponent)
      ),
      body ? { method, body: JSON.stringify(body) } : { method },
      this._serverSettings
    );
    if (!response.ok) {
      throw await ServerConnection.ResponseError.create(response);
    }
    return (await response.json()) as T;
  }

  private readonly _serverSettings: ServerConnection.ISettings;
}

function place(snapshot: ISnapshot): string[] {
  return ['sandboxes', snapshot.sandbox, 'snapshots', snapshot.id];
}
